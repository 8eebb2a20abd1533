"""The folder edgelm ships: `model.tflite`, `manifest.json`, `tokenizer.json`, `report.json`, `report.html`.

The folder is written beside its place under a temporary name and then renamed, so that a conversion that fails or is killed
leaves the old artifact or none. `model.tflite` alone is enough for an app: manifest and tokenizer are inside it as TFLite
metadata associated files, a ZIP archive behind the flatbuffer that `unzip` can read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import ArtifactError
from edgelm.spec import Encoding, ModelSpec, spec_from_dict
from edgelm.tflite import metadata

SCHEMA_VERSION = 1
MODEL, MANIFEST, TOKENIZER, REPORT_JSON, REPORT_HTML = "model.tflite", "manifest.json", "tokenizer.json", "report.json", "report.html"


@dataclass(frozen=True)
class Artifact:
    """One converted model.

    Attributes:
        path: The folder, or the lone `.tflite` file it was read from.
        tflite: Bytes of `model.tflite`.
        manifest: The manifest as plain JSON values.
        tokenizer: Text of `tokenizer.json`, or None.
    """

    path: Path
    tflite: bytes
    manifest: Mapping[str, Any]
    tokenizer: str | None

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["name"])

    @property
    def spec(self) -> ModelSpec | None:
        """The lifted model's spec; None for a graph that was converted as it is."""
        plain = self.manifest.get("spec")
        return spec_from_dict(plain) if plain else None

    @property
    def encodings(self) -> dict[str, Encoding]:
        """How each weight is stored."""
        return {name: Encoding(value) for name, value in self.manifest.get("encodings", {}).items()}


def load(path: Path) -> Artifact:
    """Reads an artifact folder, or a `.tflite` that edgelm wrote.

    Raises:
        ArtifactError: Missing, unreadable, or no artifact of edgelm's.
    """
    file = path / MODEL if path.is_dir() else path
    if path.is_dir() and (path / MANIFEST).is_file() and not file.exists():
        raise ArtifactError(
            f"{path} holds no {MODEL}: it was written for a server, with its proof in {REPORT_JSON}",
            allowed="a folder or .tflite written for a device",
            fix="edgelm convert MODEL --target android-arm64 -o FOLDER",
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"no artifact at {path}: {error.strerror}", fix="edgelm convert MODEL -o FOLDER") from error
    attached = metadata.read_attached(data)
    if MANIFEST not in attached:
        raise ArtifactError(
            f"{file} holds no edgelm manifest", allowed="a folder or .tflite written by edgelm convert", fix="edgelm inspect FILE"
        )
    try:
        manifest = json.loads(attached[MANIFEST])
        tokenizer = attached[TOKENIZER].decode("utf-8") if TOKENIZER in attached else None
    except ValueError as error:
        raise ArtifactError(f"the manifest or tokenizer inside {file} is damaged: {error}", fix="edgelm convert MODEL -o FOLDER") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version") if isinstance(manifest, dict) else manifest
        raise ArtifactError(f"{file} has manifest version {version!r}", allowed=str(SCHEMA_VERSION), fix="pip install --upgrade edgelm")
    return Artifact(path, data, manifest, tokenizer)


def is_bare(path: Path) -> bool:
    """Whether it is a file without a manifest inside: a .tflite that another tool wrote."""
    return path.is_file() and MANIFEST not in metadata.read_attached(path.read_bytes())


def pack(tflite: bytes, manifest: Mapping[str, Any], tokenizer: str | None) -> bytes:
    """The self-contained `.tflite`: manifest and tokenizer inside it."""
    files = {MANIFEST: encode_json(manifest)} | ({TOKENIZER: tokenizer.encode("utf-8")} if tokenizer else {})
    return metadata.attach(tflite, files)


def encode_json(value: Mapping[str, Any]) -> bytes:
    """JSON the way every file of an artifact is written: sorted keys, one trailing newline."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def check_writable(folder: Path, marker: str = MANIFEST) -> None:
    """Fails early when `folder` cannot be written, before any long work is done.

    Args:
        folder: An artifact, or another folder of edgelm's.
        marker: The file that a folder of that kind has.

    Raises:
        ArtifactError: The parent cannot be written, or `folder` holds something that edgelm did not write.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        kind = "artifact" if marker == MANIFEST else "model folder"
        raise ArtifactError(
            f"{folder} exists and is no edgelm {kind}", allowed=f"a new folder, or an edgelm {kind} to replace", fix="-o ANOTHER-FOLDER"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write(folder: Path, files: Mapping[str, bytes], marker: str = MANIFEST) -> None:
    """Writes the files as `folder`, replacing one of the same kind that stood there, all or nothing.

    Args:
        folder: An artifact, or another folder of edgelm's.
        files: Name, with folders where it has some, -> content.
        marker: The file that a folder of that kind has.

    Raises:
        ArtifactError: Unwritable place, full disk, or a folder of another kind.
    """
    check_writable(folder, marker)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with (temporary / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        temporary.chmod(0o755)
        _swap(temporary, folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    """Puts `new` in the place of `folder`; a kill in between leaves the old one under its hidden name."""
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> ArtifactError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing_parent(folder)).free
        return ArtifactError(
            f"the disk is full: {folder} cannot be written ({free / 1e6:.1f} MB free)", fix="free some space, or -o ANOTHER-DISK/FOLDER"
        )
    return ArtifactError(f"{folder} cannot be written: {error.strerror}", fix="-o A-WRITABLE-FOLDER")


def _existing_parent(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
