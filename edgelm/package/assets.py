"""Just the model, copied into an app's assets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgelm import artifact
from edgelm.errors import ArtifactError
from edgelm.package.subject import Subject


def check_free(subject: Subject, folder: Path, *, force: bool) -> None:
    """Fails early when another model would be overwritten.

    Args:
        subject: What will be copied.
        folder: The assets folder.
        force: Overwrite it.

    Raises:
        ArtifactError: A file of that name is there, and is neither these bytes nor an earlier version of the same model.
    """
    path = folder / subject.model_file
    try:
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{folder} is no folder", allowed="an assets folder", fix="--into app/src/main/assets")
        taken = path.exists() or path.is_symlink()
    except OSError as error:
        raise _cannot_write(path, error) from error
    if force or not taken or _holds(path, subject):
        return
    raise ArtifactError(
        f"{path} is another model",
        allowed=f"no file of that name, or an earlier {subject.artifact.name}",
        fix="--name ANOTHER-NAME, or --force",
    )


def copy(subject: Subject, folder: Path, *, force: bool) -> Path:
    """Copies the model, all or nothing.

    Args:
        subject: What is copied.
        folder: The assets folder; made if it is missing.
        force: Overwrite another model.

    Returns:
        The file.

    Raises:
        ArtifactError: See `check_free`; or the folder cannot be written.
    """
    check_free(subject, folder, force=force)
    path = folder / subject.model_file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{subject.name}.", dir=folder)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(subject.artifact.tflite)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path} cannot be written: {error.strerror}", fix="--into A-WRITABLE-FOLDER")


def _holds(path: Path, subject: Subject) -> bool:
    """The file is an artifact of the same name."""
    try:
        return artifact.load(path).name == subject.artifact.name
    except ArtifactError:
        return False
