"""The Java sources every Android package holds: edgelm's engine, and its adapter to the runtime."""

from __future__ import annotations

import re
from pathlib import Path

from edgelm.errors import MissingDependencyError

_PACKAGE = Path(__file__).parent.parent
_ENGINE = (_PACKAGE / "android_core" / "java", _PACKAGE.parent / "android_demo" / "core" / "src" / "main" / "java")
_ADAPTER = (
    _PACKAGE / "android_litert",
    _PACKAGE.parent / "android_demo" / "app" / "src" / "main" / "java" / "dev" / "edgelm" / "demo" / "litert",
)
"""In a wheel, and in a checkout."""

_DEMO_PACKAGE, ADAPTER_PACKAGE = "dev.edgelm.demo.litert", "dev.edgelm.litert"
_VERSION = re.compile(r'(String VERSION = ")[^"]*(")')


def engine_sources() -> dict[str, bytes]:
    """`dev.edgelm.core`: path below a source root -> content.

    Raises:
        MissingDependencyError: This installation has no Android sources.
    """
    return _sources(_ENGINE)


def adapter_sources(runtime_version: str) -> dict[str, bytes]:
    """The `ModelRunner` over `org.tensorflow.lite.Interpreter`: path below a source root -> content.

    It is the demo app's own, in a package of its own.

    Args:
        runtime_version: Of the runtime the app ships, for the adapter's messages.

    Raises:
        MissingDependencyError: This installation has no Android sources.
    """
    folder = ADAPTER_PACKAGE.replace(".", "/")
    return {f"{folder}/{path}": _adapted(content, runtime_version) for path, content in _sources(_ADAPTER).items()}


def _adapted(source: bytes, runtime_version: str) -> bytes:
    text = source.decode("utf-8").replace(_DEMO_PACKAGE, ADAPTER_PACKAGE)
    return _VERSION.sub(rf"\g<1>{runtime_version}\g<2>", text).encode("utf-8")


def _sources(places: tuple[Path, Path]) -> dict[str, bytes]:
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        raise MissingDependencyError(
            "this installation of edgelm has no Android sources",
            allowed="a wheel, or a whole checkout",
            fix="pip install --force-reinstall edgelm",
        )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.java"))}
