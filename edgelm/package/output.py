"""Package folders: written all at once, and replaced only when nothing of the user's would be lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edgelm import artifact
from edgelm.errors import ArtifactError

Kind = Literal["android", "cpp", "ios"]

MARKER = "edgelm-package.json"
"""Lists the files of a package with their hashes: how a folder of edgelm's is known, and what was changed in it since."""

_SCHEMA_VERSION = 1
_BUILT = ("build", ".gradle", ".cxx", ".idea", ".kotlin")
"""Folders that build tools make inside a package; they are lost without harm."""


def resolved(folder: Path) -> Path:
    """The folder itself, with `..` and links followed.

    Raises:
        ArtifactError: The path cannot be followed: links in a circle.
    """
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{folder} cannot be followed: {error}", allowed="a path that leads somewhere") from error


def check_replaceable(folder: Path, kind: Kind, *, force: bool) -> None:
    """Fails early when `folder` holds something that would be lost.

    Args:
        folder: Where a package goes.
        kind: What will be written.
        force: Lose the changes made to an earlier package.

    Raises:
        ArtifactError: It is no folder, holds files that edgelm did not write, a package of another kind, or one that was changed.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{folder} is no folder", allowed="a new folder, or an earlier package to replace")
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror}", fix=f"--{kind} A-WRITABLE-FOLDER") from error
    known = _known_files(folder, kind)
    if known is None:
        raise ArtifactError(
            f"{folder} holds something else than an earlier --{kind} package",
            allowed="a new or empty folder, or an earlier package to replace",
            fix=f"choose another folder, such as {folder / 'language-model'}",
        )
    changed = _changed(folder, known)
    if changed and not force:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ArtifactError(
            f"{folder} was changed since edgelm wrote it: {changed[0]}{more}",
            allowed="an earlier package as it was written",
            fix="the same command with --force, which loses these changes",
        )


def write(folder: Path, files: Mapping[str, bytes], kind: Kind, *, force: bool) -> None:
    """Writes a package into a temporary folder beside `folder` and renames it.

    Args:
        folder: Where it goes.
        files: Relative path -> content.
        kind: What they are.
        force: See `check_replaceable`.

    Raises:
        ArtifactError: See `check_replaceable`; or the place cannot be written.
    """
    check_replaceable(folder, kind, force=force)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    marker = artifact.encode_json({"schema_version": _SCHEMA_VERSION, "kind": kind, "files": hashes})
    try:
        artifact.write(resolved(folder), {**files, MARKER: marker}, marker=MARKER)
    except ArtifactError as error:
        raise ArtifactError(error.what, allowed=error.allowed, fix=f"free some space, or --{kind} A-WRITABLE-FOLDER") from error


def _known_files(folder: Path, kind: Kind) -> dict[str, str] | None:
    """Path -> hash as the marker says; None when there is no marker of that kind."""
    try:
        plain = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(plain, dict) or (plain.get("schema_version"), plain.get("kind")) != (_SCHEMA_VERSION, kind):
        return None
    files = plain.get("files")
    return files if isinstance(files, dict) else None


def _changed(folder: Path, known: Mapping[str, str]) -> list[str]:
    """Files whose bytes differ from what was written, and files that were added; deleted ones are no loss."""
    changed = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name != MARKER and name.split("/")[0] not in _BUILT and known.get(name) != _hash(path):
            changed.append(name)
    return changed


def _hash(path: Path) -> str | None:
    """None for what is no plain file that can be read: it was not written by edgelm."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None
