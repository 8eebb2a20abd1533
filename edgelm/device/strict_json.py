"""JSON of elsewhere into frozen dataclasses, strictly: the reader behind `profile_report`.

The dataclass is the schema: its fields are the keys, all of them needed, and their types say what is legal: `str`, `int`, `float`,
`Literal`, `tuple[X, ...]` for lists, `Mapping[str, X]`, another dataclass, and `X | None`. Errors name the value by its path.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from edgelm.errors import ProfileReportError

MAX_TEXT = 200
MAX_NUMBER = 1e15
"""Above any figure of a report: bytes of a model, or ms of a day (8.6e7)."""
MADE_ANEW = "edgelm profile ARTIFACT --device adb -o report.json, or export the report from the demo app again"


def loads(data: bytes, where: str) -> object:
    """Plain JSON values; keys that are there twice, NaN and Infinity are errors.

    Args:
        data: UTF-8 text.
        where: Names the file in errors.

    Raises:
        ProfileReportError: No JSON.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _clean(str(error))
        raise ProfileReportError(f"{where} is no JSON: {reason}", fix=MADE_ANEW) from error


def build(kind: type[Any], plain: object, where: str, path: str = "") -> Any:
    """Builds a dataclass from plain JSON values.

    Args:
        kind: The dataclass.
        plain: The JSON object.
        where: Names the file in errors.
        path: Where in the file the object is; empty for the whole.

    Raises:
        ProfileReportError: An unknown or missing key, or an illegal value, by its path.
    """
    if not isinstance(plain, Mapping):
        raise illegal(where, path, plain, "an object")
    hints = typing.get_type_hints(kind)
    for key in plain:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise ProfileReportError(f"unknown key {shown(_at(path, str(key)))} in {where}{guess}", allowed=", ".join(hints), fix=MADE_ANEW)
    missing = [key for key in hints if key not in plain]
    if missing:
        raise ProfileReportError(f"{where} lacks the key {_at(path, missing[0])!r}", allowed=", ".join(hints), fix=MADE_ANEW)
    return kind(**{key: _value(plain[key], hint, where, _at(path, key)) for key, hint in hints.items()})


def illegal(where: str, path: str, value: object, allowed: str) -> ProfileReportError:
    """The error for a value of the file, named by its path."""
    return ProfileReportError(f"{path or 'the report'} in {where} is {shown(value)}", allowed=allowed, fix=MADE_ANEW)


def shown(value: object) -> str:
    """A value of the file for a message: short, and safe for a terminal."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return "a number beyond any measurement"
    return _clean(repr(value))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _value(value: object, hint: Any, where: str, path: str) -> Any:
    """Checks one value against the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(value, arguments[0], where, path)
    if origin is Literal:
        if value not in arguments:
            raise illegal(where, path, value, ", ".join(arguments))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise illegal(where, path, value, "a list")
        return tuple(_value(inner, arguments[0], where, f"{path}[{index}]") for index, inner in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise illegal(where, path, value, "an object")
        return {_text(key, where, path): _value(inner, arguments[1], where, _at(path, str(key))) for key, inner in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where, path)
    return _text(value, where, path) if hint is str else _number(value, hint is int, where, path)


def _text(value: object, where: str, path: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise illegal(where, path, value, f"a text of at most {MAX_TEXT} printable characters")
    return value


def _number(value: object, whole: bool, where: str, path: str) -> int | float:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= MAX_NUMBER:
        raise illegal(where, path, value, f"a {'whole ' if whole else ''}number of at least 0")
    return value if whole else float(value)


def _at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _clean(text: str) -> str:
    short = text if len(text) <= 80 else text[:77] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in short)
