"""Text files with `@NAME@` in them, kept as package data, and the literals that may be put there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / "templates"
_PLACE = re.compile(r"@([A-Z][A-Z0-9_]*)@")


def fill(template: str, values: Mapping[str, str]) -> bytes:
    """A template with its places filled, as UTF-8.

    Args:
        template: Path below `templates/`.
        values: Name of a place -> text; must have all the places of the template.

    Raises:
        KeyError: A place has no value (a defect of the template).
    """
    text = (_FOLDER / template).read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: values[place.group(1)], text).encode("utf-8")


def string_literal(text: str) -> str:
    r"""A Java string literal in ASCII: quotes, backslashes and control characters escaped, the rest as UTF-16 escapes.

    Example:
        >>> print(string_literal('say "hé"\n'))
        "say \"h\u00e9\"\n"
    """
    return '"' + "".join(_escaped(unit) for unit in _utf16(text)) + '"'


def comment(text: str) -> str:
    r"""One line of ASCII that ends no comment and holds no escape or tag, for javadoc.

    Example:
        >>> comment("a */ b \\u002a @see <b>")
        'a * / b /u002a (at)see (b)'
    """
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    swaps = {"\\": "/", "*/": "* /", "@": "(at)", "<": "(", ">": ")", "&": "+", "{": "(", "}": ")"}
    for old, new in swaps.items():
        plain = plain.replace(old, new)
    return plain


def _utf16(text: str) -> list[int]:
    data = text.encode("utf-16-le", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)]


def _escaped(unit: int) -> str:
    named = {0x0A: r"\n", 0x0D: r"\r", 0x09: r"\t", 0x22: r"\"", 0x5C: r"\\", 0x0C: r"\f", 0x08: r"\b"}
    if unit in named:
        return named[unit]
    if 0x20 <= unit < 0x7F:
        return chr(unit)
    return f"\\{unit:03o}" if unit < 0x20 else f"\\u{unit:04x}"  # a \u escape of a line end would end the line of the source
