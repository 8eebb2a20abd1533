"""Does an app's Gradle build file store models as they are, and does it build for phones?

The file is searched, not run: Kotlin and Groovy build files are programs. Comments don't count.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgelm.errors import ArtifactError
from edgelm.package.app_checks import ABI
from edgelm.report import Check

_MOST_BYTES = 1 << 20
_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_QUOTED = re.compile(r"""["']([^"'\n]*)["']""")


def checks(path: Path) -> tuple[Check, ...]:
    """Judges app/build.gradle.kts or build.gradle.

    Raises:
        ArtifactError: It cannot be read.
    """
    code = _without_comments(_text(path))
    return (_no_compress(code, path), _abi_filters(code, path))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ArtifactError(f"build file {path} has over 1 MiB", allowed="an app's build.gradle.kts or build.gradle")
        return data.decode("utf-8")
    except OSError as error:
        raise ArtifactError(
            f"build file {path} cannot be read: {error.strerror}",
            allowed="build.gradle.kts or build.gradle",
            fix="--build-file app/build.gradle.kts",
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"build file {path} is not UTF-8 text: byte {error.start}", allowed="build.gradle.kts or build.gradle"
        ) from error


def _no_compress(code: str, path: Path) -> Check:
    named = {text.lstrip(".").lower() for text in _values(code, "noCompress")}
    good = bool(named & {"tflite", ""})  # an empty ending stands for every file
    cause = (
        "" if good else "nothing in the file keeps models uncompressed: it rests on the default of the Android Gradle plugin (4.1 or newer)"
    )
    fix = "" if good else f'add to android {{ }} of {path}: androidResources {{ noCompress += "tflite" }}'
    return Check("noCompress", ", ".join(sorted(named)) or "not set", "tflite", "", good, "read", cause, fix)


def _abi_filters(code: str, path: Path) -> Check:
    abis = _values(code, "abiFilters")
    if not abis:
        return Check("ABI filters", "none: every ABI of the libraries", limit=f"{ABI} among them", passed=True, basis="read")
    good = ABI in abis
    cause = "" if good else "the app is not built for 64-bit ARM phones"
    fix = "" if good else f'ndk {{ abiFilters += listOf("{ABI}", "x86_64") }} in {path}'
    return Check("ABI filters", ", ".join(sorted(abis)), f"{ABI} among them", "", good, "read", cause, fix)


def _values(code: str, key: str) -> set[str]:
    """Every quoted text in the statements that name `key`: up to the end of the line, or of the bracket that is open there."""
    found: set[str] = set()
    for match in re.finditer(rf"\b{key}\b", code):
        found.update(_QUOTED.findall(_statement(code, match.end())))
    return found


def _statement(code: str, start: int) -> str:
    depth = 0
    for at in range(start, len(code)):
        character = code[at]
        depth += (character in "([") - (character in ")]")
        if character in "};" or (character == "\n" and depth <= 0 and not code[start:at].rstrip().endswith((",", "=", "("))):
            return code[start:at]
    return code[start:]


def _without_comments(code: str) -> str:
    return _TOKEN.sub(lambda match: " " if match.group().startswith("/") else match.group(), code)
