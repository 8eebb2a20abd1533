"""Imports PyTorch language models: an nn.Module in Python, and `.pt` / `.pth` files as far as they are data.

A module goes through ONNX in a temporary folder, is lifted as every `.onnx` file is, and is proven against the module itself. Files are
never unpickled unless trusted; state dicts are read with `weights_only=True`.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConversionError, SourceError, UnsafeModelError, UnsupportedModelError, optional_package
from edgelm.model import Imported, LanguageModel, OpaqueGraph
from edgelm.spec import TransformerSpec
from edgelm_converters.lift import Source, proven

if TYPE_CHECKING:
    from edgelm_converters.torch_forward import Forward

FORMAT = "torch"

_EXAMPLE = [[0, 1] * 8]  # ids that every vocabulary has
_SAFE = "a .onnx file, a state dict with its config.json beside it, a checkpoint of nanoGPT or llama2.c, or an nn.Module in Python"
_EXPORT = "export it in Python (torch.onnx.export(module, (ids,), 'model.onnx')) and convert model.onnx"
_DAMAGED = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, MemoryError, AssertionError)


def read_module(module: Any, example_tokens: Any = None, name: str | None = None) -> Imported:
    """Imports a module that is in memory; it stays as it is, its modes included.

    Args:
        module: A torch.nn.Module whose forward takes ids, or ids and states, and returns scores: alone, first in a tuple before the new
            states, or as `.logits`. States are found where forward takes None, where the module has `init_hidden(batch)`, and for a
            single recurrent layer.
        example_tokens: Ids (batch, time) that it takes, (time, batch) where it wants them so; or a tuple of them and what follows them
            in a call before the first token (states, empty caches). By default 16 tokens of ids 0 and 1.
        name: For reports; by default the name of the class.

    Returns:
        A `LanguageModel` with its proof against the module, or an `OpaqueGraph` of the exported file; with the module itself as a
        function, its states fed back token by token where it takes and returns them. Tokenizer and hash are left to the caller.

    Raises:
        UnsupportedModelError: It cannot be run on token ids, or is no causal language model.
        ConversionError: It cannot be exported, or the exported graph computes something else.
        MissingDependencyError: torch, onnx or onnxruntime is not installed.

    Example:
        >>> imported = read_module(model, torch.tensor([[5, 3, 8, 2]]))
        >>> imported.model.origin.way, imported.model.origin.proof
        ('lifted', LiftProof(tokens=96, max_abs_difference=3.1e-07, top1_agreement=1.0))
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise UnsupportedModelError(f"{type(module).__name__} is no torch.nn.Module", allowed=_SAFE)
    from edgelm_converters.torch_forward import find_forward
    from edgelm_converters.torch_source import as_source

    module = getattr(module, "_orig_mod", module)  # of torch.compile
    title = name or type(module).__name__
    forward, ids = find_forward(module, _EXAMPLE if example_tokens is None else example_tokens)
    source = as_source(forward, ids)
    imported = _through_onnx(forward, ids, source, title)
    if not isinstance(imported.model, LanguageModel):
        return Imported(imported.model, source.logits)
    origin = imported.model.origin
    notes = origin.why.split(". ")[1:] if origin else []  # the first sentence is on the proof against onnxruntime
    model = proven(imported.model, source, FORMAT, notes=notes)
    if isinstance(model, str):
        raise ConversionError(
            f"the ONNX export of {title} does not compute what the module does: {model}",
            allowed="a forward without Python branches on the values of tensors",
        )
    return Imported(model, source.logits)


def _through_onnx(forward: Forward, ids: NDArray[np.int64], source: Source, title: str) -> Imported:
    """Exports a module and reads the file.

    Tracing nn.MultiheadAttention fixes the time, whatever the file's axes say; such a module is exported once more at the longest time it
    takes, so that nothing of its positions is cut off.
    """
    from edgelm_converters import onnx
    from edgelm_converters.torch_export import export
    from edgelm_converters.torch_source import longest_time

    folder = Path(tempfile.mkdtemp(prefix="edgelm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # an opaque graph is lowered from the file later
    path = export(forward, ids, folder / f"{title}.onnx", dynamic=source.time is None)
    try:
        imported = onnx.read(path, name=title)
        if source.time or not _cut_off(imported.model, ids.shape[1]):
            return imported
    except UnsupportedModelError:
        if source.time:
            raise
    whole = np.resize(ids, (1, longest_time(forward, ids)))
    return onnx.read(export(forward, whole, path, dynamic=False), name=title)


def _cut_off(model: LanguageModel | OpaqueGraph, time: int) -> bool:
    """Whether the model has no more positions than the example it was traced with."""
    return isinstance(model, LanguageModel) and isinstance(model.spec, TransformerSpec) and model.spec.max_positions <= time


def read(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Imports a `.pt` or `.pth` file.

    Args:
        path: A state dict with the `config.json` of a Hugging Face architecture beside it, or a checkpoint of nanoGPT or llama2.c
            (`model` and `model_args`); with `trust` also TorchScript and pickled modules.
        trust: Lets torch execute what the file brings along.
        name: For reports; by default the file's name without its ending.

    Raises:
        UnsafeModelError: Reading it would execute code, and `trust` is False.
        SourceError: Damaged, or weights whose architecture is not known.
        UnsupportedModelError: It is no language model.
        MissingDependencyError: torch is not installed.
    """
    torch = _torch()
    from edgelm_converters.torch_state import read_checkpoint

    title = name or path.stem
    if _is_torchscript(path):
        _require_trust(path, trust, "is TorchScript, which is code")
        return read_module(_loaded(path, lambda: torch.jit.load(path, map_location="cpu")), name=title)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of a file of another kind; it is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe is None:
            raise _damaged(path, error) from error
        _require_trust(path, trust, f"is a pickle that names {unsafe[1]}, and unpickling can execute anything")
        content = _loaded(path, lambda: torch.load(path, map_location="cpu", weights_only=False))
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if isinstance(content, torch.nn.Module):
        return read_module(content, name=title)
    return read_checkpoint(path, content, title)


def _torch() -> Any:
    return optional_package("torch", "reading PyTorch models", "torch")


def _is_torchscript(path: Path) -> bool:
    """By content: an archive with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in entry for entry in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _require_trust(path: Path, trust: bool, why: str) -> None:
    if not trust:
        raise UnsafeModelError(f"{path} {why}", allowed=_SAFE, fix=f"{_EXPORT}; or add --trust if you know who made the file")


def _loaded(path: Path, load: Any) -> Any:
    """What a trusted file holds; what it executes can fail in any way."""
    try:
        return load()
    except Exception as error:
        raise SourceError(f"torch cannot load {path}: {_line(error)}", allowed=_SAFE, fix=_EXPORT) from error


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path} cannot be read by torch: {_line(error)}", allowed=_SAFE, fix="save or download the file again")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
