"""Writes a device profile as the TOML that `edgelm.device.profile` reads."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgelm.device import profile as profiles
from edgelm.device.profile import DeviceProfile
from edgelm.errors import ProfileError


def to_toml(profile: DeviceProfile, comment: str = "") -> str:
    """The text of a profile file; `profile.load` reads the same profile back.

    Args:
        profile: Any profile; its name is the file's stem and not in the text.
        comment: One line on top.
    """
    lines = [f"# {comment}"] if comment else []
    for table in ("device", "runtime", "limits", "latency"):
        lines += _table(table, getattr(profile, table))
    return "\n".join(lines).strip() + "\n"


def check_writable(path: Path) -> None:
    """Fails early where `write` would.

    Raises:
        ProfileError: The name does not end in .toml, the folder is missing, or the file is there and no profile.
    """
    if path.suffix != ".toml":
        raise ProfileError(f"{path} does not end in .toml", allowed="-o my-phone.toml: its stem becomes the profile's name")
    if not path.parent.is_dir():
        raise ProfileError(f"the folder {path.parent} does not exist", fix=f"mkdir -p {path.parent}")
    if path.exists():
        try:
            profiles.load(path)
        except ProfileError as error:
            raise ProfileError(f"{path} exists and is no device profile", allowed="a new file, or a profile to replace") from error


def write(profile: DeviceProfile, path: Path, comment: str = "") -> None:
    """Writes a profile file, replacing one that stood there, all or nothing.

    Raises:
        ProfileError: As `check_writable`, or the disk is full.
    """
    check_writable(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(to_toml(profile, comment))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise ProfileError(f"{path} cannot be written: {error.strerror}", fix="-o A-WRITABLE-FOLDER/my-phone.toml") from error


def _table(name: str, values: Any) -> Iterator[str]:
    """A dataclass as a table: plain fields first, then its own tables."""
    fields = [(field.name, getattr(values, field.name)) for field in dataclasses.fields(values)]
    yield from ("", f"[{name}]")
    for key, value in fields:
        if value is not None and not isinstance(value, tuple) and not dataclasses.is_dataclass(value):
            yield f"{key} = {_plain(value)}"
    for key, value in fields:
        if dataclasses.is_dataclass(value):
            yield from _table(f"{name}.{key}", value)
        for level in value if isinstance(value, tuple) else ():
            yield from ("", f"[[{name}.{key}]]")
            yield from (f"{inner} = {_plain(figure)}" for inner, figure in dataclasses.asdict(level).items())


def _plain(value: object) -> str:
    """A value of TOML: its basic strings are JSON's but for the escape of a delete character, which no profile has."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
