"""The errors a user can mend: what went wrong, where, what is allowed, and the command to run next.

Every error that reaches the command line is an `EdgeLMError`; the command line prints its four parts and exits with `exit_code`.
Anything else that escapes is a bug.
"""

from __future__ import annotations

import importlib
from typing import Any


class EdgeLMError(Exception):
    """Base of the errors a user can mend.

    Args:
        what: One sentence that says what is wrong and where (file, key, layer), with the value that was met.
        allowed: What would have been accepted; empty when that is plain from `what`.
        fix: The next command or edit; empty when there is none.

    Example:
        >>> print(EdgeLMError("recipe int9 is not known", allowed="int8, int4", fix="edgelm recipes"))
        recipe int9 is not known
          allowed: int8, int4
          next: edgelm recipes
    """

    exit_code = 1

    def __init__(self, what: str, *, allowed: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.allowed = allowed
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  next: {self.fix}")
        return "\n".join(lines)


class SourceError(EdgeLMError):
    """The model file cannot be read: missing, truncated, corrupt, of another kind, weights only."""


class UnsafeModelError(SourceError):
    """Reading the model would execute code from the file (Lambda, custom objects, pickles)."""


class UnsupportedModelError(EdgeLMError):
    """The model was read, but it is no language model edgelm can convert, or a step cannot be done to it."""


class TokenizerError(EdgeLMError):
    """A tokenizer cannot be read, or does not belong to the model."""


class CorpusError(EdgeLMError):
    """A text corpus is missing, empty or not UTF-8."""


class RecipeError(EdgeLMError):
    """A recipe has an unknown key, an illegal value or an illegal order of steps."""


class ProfileError(EdgeLMError):
    """A device profile is missing or has an unknown or illegal key."""


class ConversionError(EdgeLMError):
    """The converter of another framework failed; its message is translated to cause and fix."""


class ArtifactError(EdgeLMError):
    """An artifact folder or .tflite cannot be read or written."""


class RuntimeFailure(EdgeLMError):  # noqa: N818 (RuntimeError is Python's)
    """A TFLite runtime refused the file or failed while running it."""


class ContextFullError(RuntimeFailure):
    """A transformer session has no cache slot left."""


class ProfileReportError(EdgeLMError):
    """What a run on a device measured (`edgelm-profile/1`) cannot be read: no JSON, an unknown key, an illegal value."""


class DeviceError(EdgeLMError):
    """A phone or board cannot be reached, or a run on it failed."""


class EmulatorError(EdgeLMError):
    """The emulator of arm64 cores cannot be set up, is damaged, or a run under it failed."""


class DebianPackagesError(EdgeLMError):
    """Debian packages cannot be fetched or unpacked: no apt, no mirror, no network, no room, or a file that fails its check."""


class MissingDependencyError(EdgeLMError):
    """An optional package is needed; `fix` is the pip command that installs it."""


def optional_package(module: str, task: str, extra: str) -> Any:
    """A package that not everyone has.

    Args:
        module: Its name, dotted for a part of it.
        task: What needs it: "reading ONNX files".
        extra: The extra of edgelm that brings it.

    Raises:
        MissingDependencyError: It is not installed.

    Example:
        >>> optional_package("onnx", "reading ONNX files", "onnx").__name__
        'onnx'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise MissingDependencyError(f"{task} needs {name}, which is not installed", fix=f"pip install 'edgelm[{extra}]'") from error
