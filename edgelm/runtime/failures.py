"""The messages of the TFLite runtimes, translated to cause and fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from edgelm.errors import RuntimeFailure

NEWER_FIX = "edgelm convert MODEL --recipe int8-tflite2.14 writes a form old runtimes run; or ship ai-edge-litert with the app"

DAMAGED = r"not a valid Flatbuffer|model identifier|schema version|out of range offset"
"""What the runtimes say of a file that is cut short or no flatbuffer."""

Translation = Callable[[re.Match[str], str, str], RuntimeFailure]


def translated(message: str, doing: str, runtime: str) -> RuntimeFailure:
    """The error to raise for a runtime's message.

    Args:
        message: What the runtime said.
        doing: What edgelm was doing, such as `loading model.tflite`.
        runtime: Name and version of the runtime.

    Example:
        >>> print(translated("Could not open 'a.tflite'.", "loading a.tflite", "ai-edge-litert 2.1.0"))
        loading a.tflite: the file cannot be opened
          next: check the path: a model is model.tflite inside the artifact's folder
    """
    for pattern, translation in TRANSLATIONS.items():
        if match := re.search(pattern, message, re.DOTALL):
            return translation(match, doing, runtime)
    said = " ".join(message.split()) or "no message"
    return RuntimeFailure(f"{doing}: {runtime} says: {said}", fix="edgelm inspect FILE shows its ops, versions and signatures")


def _unknown_version(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    op, version = match["op"], match["version"]
    return RuntimeFailure(
        f"{doing}: {runtime} has no {op} version {version}; the file was written for a newer runtime",
        allowed=f"op versions that {runtime} knows",
        fix=NEWER_FIX,
    )


def _unknown_op(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    return RuntimeFailure(
        f"{doing}: {runtime} does not know builtin op number {match['code']}; the file was written for a newer runtime",
        fix=NEWER_FIX,
    )


def _flex(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    op = f" ({match['op']})" if match["op"] else ""
    return RuntimeFailure(
        f"{doing}: the file holds a TensorFlow op{op} that {runtime} runs only with the Flex delegate",
        allowed="builtin TFLite ops",
        fix="convert the source with edgelm convert, which never writes Flex ops",
    )


def _custom(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    return RuntimeFailure(
        f"{doing}: the file holds the custom op {match['op']}, which {runtime} lacks",
        allowed="builtin TFLite ops",
        fix="convert the source with edgelm convert, which writes no custom ops",
    )


def _damaged(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    return RuntimeFailure(
        f"{doing}: this is no .tflite file, or it is damaged or cut short",
        allowed="a whole TFLite flatbuffer (identifier TFL3)",
        fix="copy the file again, or write it again with edgelm convert",
    )


def _missing(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    return RuntimeFailure(f"{doing}: the file cannot be opened", fix="check the path: a model is model.tflite inside the artifact's folder")


def _prepare(match: re.Match[str], doing: str, runtime: str) -> RuntimeFailure:
    said = " ".join(match.string.split())
    return RuntimeFailure(
        f"{doing}: {runtime} cannot {match['what']} node {match['node']} ({match['op']}): {said}",
        fix="edgelm inspect FILE shows that op with its version",
    )


TRANSLATIONS: Mapping[str, Translation] = {
    r"builtin opcode '(?P<op>\w+)' version '(?P<version>\d+)'": _unknown_version,
    r"builtin_code out of range: (?P<code>\d+)": _unknown_op,
    r"Select TensorFlow op\(s\)(?:.*?\((?P<op>Flex\w+)\) failed)?": _flex,
    r"unresolved custom op: (?P<op>\w+)": _custom,
    DAMAGED: _damaged,
    r"Could not open|No such file|Is a directory|Permission denied": _missing,
    r"Node number (?P<node>\d+) \((?P<op>\w+)\) failed to (?P<what>prepare|invoke)": _prepare,
}
"""Pattern of a runtime's message -> its translation; the first that matches wins."""
