"""A C++ example for one model: the session library, a `main` that continues a text, and what Python wrote for comparison."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from edgelm.device.runner import BLOCKS_VERSION
from edgelm.errors import TokenizerError, UnsupportedModelError
from edgelm.package import templates
from edgelm.package.subject import Subject
from edgelm.runtime import predict
from edgelm.runtime.sampling import GREEDY
from edgelm.runtime.session import open_session
from edgelm.text.tokenizer import Tokenizer
from edgelm.tflite import reader

PROMPT, TOKENS = "see you", 24
LIBRARY = "edgelm"
"""Folder of the library in the package."""

_NATIVE = Path(__file__).parent.parent / "native"
_ENTRY = "edgelm_lm.h"
_INCLUDE = re.compile(r'^#include "([a-z0-9_]+\.h)"', re.MULTILINE)


def files(subject: Subject) -> dict[str, bytes]:
    """The example: relative path -> content; equal inputs give equal bytes.

    Args:
        subject: What is packaged.

    Raises:
        UnsupportedModelError: A graph that was converted as it is: the C++ sessions need states.
        TokenizerError: The model has no tokenizer, so that there is no text to continue.
        RuntimeFailure: The runtime cannot run the model.
    """
    if subject.family == "graph":
        raise UnsupportedModelError(
            f"{subject.artifact.name} was converted as it is, and the C++ sessions run step and decode signatures only",
            allowed="a model that was lifted or is edgelm's own",
            fix="edgelm package ARTIFACT --android OUT, which has a class for such graphs",
        )
    if subject.artifact.tokenizer is None:
        raise TokenizerError(f"{subject.artifact.name} has no tokenizer inside", fix="edgelm convert MODEL --tokenizer PATH -o FOLDER")
    tokenizer = Tokenizer.from_json(subject.artifact.tokenizer)
    library = _library()
    values = (
        subject.values()
        | _values(subject, tokenizer)
        | {"SOURCES": "\n               ".join(_sources(library)), "COMMANDS": commands(subject)}
        | ({"RUNTIME_VERSION": BLOCKS_VERSION} if _has_blocks(subject) else {})
    )
    own = {name: templates.fill(f"cpp/{name}", values) for name in ("CMakeLists.txt", "README.md", "main.cpp", "vocabulary.h")}
    return own | {f"{LIBRARY}/{name}": content for name, content in library.items()} | {subject.model_file: subject.artifact.tflite}


def commands(subject: Subject, folder: Path | None = None) -> str:
    """The shell lines that build and run the example.

    Args:
        subject: What is packaged.
        folder: Where it lies; None for the present folder.
    """
    place = "." if folder is None else shlex.quote(str(folder))
    fetched, wheel = "", 'python -c "import ai_edge_litert as w; print(w.__path__[0])"'
    if _has_blocks(subject):  # of the installed one the interpreter loads them, and the C library does not
        fetched = f"pip install --quiet --no-deps --target {place}/litert ai-edge-litert=={BLOCKS_VERSION}\n"
        wheel = f"realpath {place}/litert/ai_edge_litert"
    return (
        f'{fetched}cmake -S {place} -B {place}/build -DLITERT_LIBRARY="$({wheel})/libLiteRt.so"\n'
        f"cmake --build {place}/build\n"
        f"{place}/build/{subject.name}_example {place}/{subject.model_file}"
    )


def _has_blocks(subject: Subject) -> bool:
    return reader.read(subject.artifact.tflite).has_int4_blocks


def _library() -> dict[str, bytes]:
    """Every file the session library is made of: what its header includes, and the sources of the same names."""
    found: dict[str, bytes] = {}
    waiting = [_ENTRY]
    while waiting:
        name = waiting.pop()
        path = _NATIVE / name
        if name in found or not path.is_file():
            continue
        found[name] = path.read_bytes()
        waiting += _INCLUDE.findall(found[name].decode("utf-8"))
        waiting.append(name.removesuffix(".h") + ".cpp" if name.endswith(".h") else name)
    return dict(sorted(found.items()))


def _sources(library: dict[str, bytes]) -> list[str]:
    return [f"{LIBRARY}/{name}" for name in library if name.endswith(".cpp")]


def _values(subject: Subject, tokenizer: Tokenizer) -> dict[str, str]:
    session = open_session(subject.artifact.tflite, runtime=subject.profile.runtime.name)
    expected = "".join(predict.complete(session, tokenizer, PROMPT, TOKENS, GREEDY))
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    count = min(tokenizer.vocab_size, session.vocab_size)
    return {
        "PROMPT_IDS": ", ".join(map(str, start + tokenizer.encode(PROMPT))),
        "PROMPT_COMMENT": templates.comment(f'"{PROMPT}"'),
        "PROMPT_TEXT": f'"{PROMPT}"',
        "TOKENS": str(TOKENS),
        "EXPECTED": expected,
        "TOKEN_COUNT": str(count),
        "UNKNOWN": str(-1 if tokenizer.unknown_id is None else tokenizer.unknown_id),
        "PIECES": "\n".join(_piece(tokenizer, i) for i in range(count)),
    }


def _piece(tokenizer: Tokenizer, token: int) -> str:
    silent = token in tokenizer.special_ids or token == tokenizer.boundary_id
    data = b"" if silent else tokenizer.piece_bytes(token)
    return f'    {{{len(data)}, "{_c_text(data)}"}},'


def _c_text(data: bytes) -> str:
    r"""Bytes inside a C string literal; three octal digits end an escape whatever follows.

    Example:
        >>> print(_c_text('a"é?'.encode()))
        a\"\303\251\077
    """
    plain = {0x22: r"\"", 0x5C: r"\\", 0x3F: r"\077"}  # no ?, so that no trigraph comes about
    return "".join(plain.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in data)
