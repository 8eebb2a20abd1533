"""From what the user names to an `Imported` model: bundled models, edgelm folders, and the formats of other frameworks."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edgelm import artifact
from edgelm.errors import SourceError
from edgelm.model import Imported, LanguageModel, OpaqueGraph, Origin, SourceLogits
from edgelm.models import reference, reference_static
from edgelm.spec import Encoding, spec_from_dict, spec_to_dict
from edgelm.text.tokenizer import Tokenizer, check_vocabulary
from edgelm.text.tokenizer_files import tokenizer_in

SPEC, WEIGHTS, TOKENIZER = "spec.json", "weights.safetensors", "tokenizer.json"
STORAGE, SCALES = "storage.json", "scales.safetensors"
"""How a compressed model is to be stored: encodings and activation ranges, and the scales that techniques fixed."""

Reader = Callable[..., Imported]

SUFFIXES: dict[str, str] = {
    ".keras": "edgelm_converters.keras",
    ".h5": "edgelm_converters.keras",
    ".hdf5": "edgelm_converters.keras",
    ".bin": "edgelm_converters.llama2c",
    ".onnx": "edgelm_converters.onnx",
    ".pt": "edgelm_converters.torch",
    ".pth": "edgelm_converters.torch",
}
"""File ending -> module whose `read(path, trust=, name=)` imports it."""

FOLDERS: dict[str, str] = {
    "saved_model.pb": "edgelm_converters.keras",
    "config.json": "edgelm_converters.huggingface",
    "adapter_config.json": "edgelm_converters.huggingface",
}
"""File that tells what a folder is -> module, as in `SUFFIXES`."""

HUGGINGFACE_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".txt", ".tiktoken"})
"""Endings of the files of a Hugging Face folder that decide what becomes of it: config, weights and tokenizer."""


def bundled() -> dict[str, Path]:
    """Name -> folder of the trained reference models that come with edgelm."""
    folder = Path(str(resources.files("edgelm"))) / "reference_models"
    return {entry.name: entry for entry in sorted(folder.iterdir()) if (entry / SPEC).is_file()} if folder.is_dir() else {}


def place_of(source: str | Path) -> Path:
    """Where a model that the user names lies: a bundled one's folder, the folder around a `.safetensors` file, or the path itself."""
    path = bundled().get(str(source)) or Path(source)
    return path.parent if path.suffix == ".safetensors" and path.is_file() else path


def load(source: str | Path, *, trust: bool = False, tokenizer: Path | None = None) -> Imported:
    """Reads a model, with its tokenizer when one lies beside it or is named.

    Args:
        source: The name of a bundled model, an edgelm folder (`spec.json` + `weights.safetensors`), a `.keras` or `.h5` file, a SavedModel
            folder, an `.onnx` file, a Hugging Face folder (`config.json` + `model.safetensors`), a PyTorch `.pt` or `.pth` file, or a
            llama2.c `.bin` file.
        trust: Execute code from the file where it needs that (Lambda layers, custom classes, pickles).
        tokenizer: A tokenizer file or folder; by default what lies beside the model.

    Raises:
        SourceError: Missing, unknown kind, truncated or corrupt.
        UnsupportedModelError: Read, but no language model that edgelm can convert.
        TokenizerError: The tokenizer cannot be read or has more entries than the model has rows.
    """
    path = place_of(source)
    reader = _reader(path)
    with ThreadPoolExecutor(2) as beside:  # hashing and the tokenizer of a large model take as long as its weights
        sha256 = beside.submit(content_sha256, path)
        text = beside.submit(_tokenizer_of, tokenizer, path)
        imported = reader(path, trust=trust, name=_name(path))
    return _completed(imported, text.result(), sha256.result())


def load_module(module: Any, example_tokens: Any = None, *, tokenizer: Path | None = None, name: str | None = None) -> Imported:
    """Reads a torch.nn.Module that is in memory, with a tokenizer when one is named.

    Args:
        module: See `edgelm_converters.torch.read_module`, also for what it raises.
        example_tokens: Ids (batch, time) that it takes, or a tuple of them and the states that follow them in a call.
        tokenizer: A tokenizer file or folder.
        name: For reports; by default the name of the class.

    Raises:
        TokenizerError: The tokenizer cannot be read or has more entries than the model has rows.
    """
    imported: Imported = importlib.import_module("edgelm_converters.torch").read_module(module, example_tokens, name)
    model = imported.model
    sha256 = content_sha256(model.path) if isinstance(model, OpaqueGraph) else _weights_sha256(model)
    return _completed(imported, Tokenizer.load(tokenizer) if tokenizer else None, sha256)


def _tokenizer_of(named: Path | None, path: Path) -> Tokenizer | None:
    """The tokenizer that is named, or lies beside a model."""
    place = named or tokenizer_in(path if path.is_dir() else path.parent)
    return Tokenizer.load(place) if place else None


def _completed(imported: Imported, tokenizer: Tokenizer | None, sha256: str) -> Imported:
    """What a converter returned, with its tokenizer, what is to be said of it, and the hash."""
    model, text, origin = imported.model, None, imported.model.origin
    if tokenizer is not None:
        note = check_vocabulary(tokenizer, model.spec.vocab_size if isinstance(model, LanguageModel) else model.vocab_size)
        text = tokenizer.to_json()
        origin = dataclasses.replace(origin, why=f"{origin.why}. {note}") if origin and note else origin
    completed = dataclasses.replace(model, tokenizer=text, source_sha256=sha256, origin=origin)
    return Imported(completed, imported.source_logits)


def _weights_sha256(model: LanguageModel) -> str:
    """SHA-256 over a model that has no file: its spec, and the names and values of its weights."""
    digest = hashlib.sha256(json.dumps(spec_to_dict(model.spec), sort_keys=True).encode())
    for name, weight in sorted(model.weights.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _name(path: Path) -> str:
    name = path.resolve().name
    return (name if path.is_dir() else name.removesuffix(path.suffix)) or "model"  # SmolLM2-1.7B has no ending


def _reader(path: Path) -> Reader:
    known = (
        f"a bundled model ({', '.join(bundled())}), .keras, .h5, a SavedModel folder, a Hugging Face folder with safetensors, "
        "a llama2.c .bin, .onnx, .pt, or an edgelm model folder"
    )
    if not path.exists():
        raise SourceError(f"no model at {path}", allowed=known, fix="edgelm doctor")
    if path.is_dir():
        if (path / SPEC).is_file():
            return read_folder
        module = _folder_module(path)
    else:
        module = SUFFIXES.get(path.suffix.lower())
    if module is None:
        raise SourceError(f"{path} is no kind of model that edgelm reads", allowed=known)
    reader: Reader = importlib.import_module(module).read
    return reader


def _folder_module(path: Path) -> str | None:
    """The module that reads a folder; None for edgelm's own and unknown ones."""
    known = [] if (path / SPEC).is_file() else FOLDERS.items()
    return next((module for file, module in known if (path / file).is_file()), None)


_BLOCK = 1 << 24
"""Bytes hashed at a time: after each block a busy interpreter keeps the thread waiting for as long as a small block takes."""


def content_sha256(path: Path) -> str:
    """SHA-256 over the names and bytes of a file, or of all files of a folder (of one of Hugging Face's: those that may be read)."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path, *sorted(path.parent.glob(f"{glob.escape(path.name)}*data"))]  # the weights of an ONNX file can lie beside it
    if FOLDERS["config.json"] == _folder_module(path):  # beside them lie gigabytes of other formats, and .git
        return sorted(p for p in path.iterdir() if p.suffix in HUGGINGFACE_SUFFIXES and p.is_file())
    return sorted(p for p in path.rglob("*") if p.is_file())


def read_folder(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Reads edgelm's own folder: `spec.json` and `weights.safetensors` in canonical names (float16 or float32).

    A compressed model has `storage.json` and `scales.safetensors` besides: its encodings, activation ranges and scales.

    Raises:
        SourceError: A file is missing or damaged.
        UnsupportedModelError: Spec and weights do not belong together.
    """
    del trust  # nothing in this format can execute
    try:
        plain = json.loads((path / SPEC).read_text(encoding="utf-8"))
        storage = json.loads((path / STORAGE).read_text(encoding="utf-8")) if (path / STORAGE).exists() else {}
        weights = _tensors(path / WEIGHTS)
        scales = _tensors(path / SCALES) if (path / SCALES).exists() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise SourceError(f"the model folder {path} cannot be read: {error}", allowed=f"{SPEC}, {WEIGHTS} and {TOKENIZER}") from error
    if not isinstance(plain, dict):
        raise SourceError(f"{path / SPEC} is no table of spec keys")
    encodings, ranges = _storage(path / STORAGE, storage, weights)
    for key, array in scales.items():
        if key not in weights or array.ndim != 2 or array.dtype != np.float32 or len(array) != len(weights[key]):
            what = f"{path / SCALES} has {array.dtype} {array.shape} for {key}"
            raise SourceError(what, allowed="float32 (rows, blocks) of a matrix of the model")
    origin = Origin("edgelm", f"numpy {np.__version__} reference", "native", "edgelm's own folder of spec and weights")
    model = LanguageModel(
        spec_from_dict(plain), weights, name=name or path.name, encodings=encodings, scales=scales, ranges=ranges, origin=origin
    )
    return Imported(model, source_logits_of(model))


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    with safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


def _storage(path: Path, plain: Any, weights: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Encoding], dict[str, tuple[float, float]]]:
    """Encodings and activation ranges of `storage.json`."""
    try:
        encodings = {str(key): Encoding(value) for key, value in plain.get("encodings", {}).items()}
        ranges = {str(site): (float(low), float(high)) for site, (low, high) in plain.get("ranges", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}", allowed="encodings and ranges, as edgelm compress writes them") from error
    if unknown := sorted(encodings.keys() - weights.keys()):
        raise SourceError(f"{path} has an encoding for {unknown[0]}, which the model does not have")
    return encodings, ranges


def source_logits_of(model: LanguageModel) -> SourceLogits:
    """The numpy reference of a model as a source."""
    computes = reference_static.logits if model.ranges else reference.logits
    return lambda ids: computes(model, ids)


def write_folder(model: LanguageModel, path: Path, extra: Mapping[str, bytes] | None = None) -> None:
    """Writes edgelm's own folder, weights as they are in the model (bfloat16 as float32); one there is replaced, all or nothing.

    Args:
        model: What to write; its encodings, scales and ranges go with it.
        path: The folder.
        extra: More files of the folder.

    Raises:
        ArtifactError: Unwritable place, full disk, or a folder that edgelm did not write.
    """
    from safetensors.numpy import save

    files = {SPEC: (json.dumps(spec_to_dict(model.spec), indent=1) + "\n").encode("utf-8"), WEIGHTS: save(_contiguous(model.weights))}
    if model.encodings or model.ranges:
        encodings = {name: encoding.value for name, encoding in model.encodings.items()}
        files[STORAGE] = artifact.encode_json({"encodings": encodings, "ranges": {site: list(pair) for site, pair in model.ranges.items()}})
    if model.scales:
        files[SCALES] = save(_contiguous(model.scales))
    if model.tokenizer:
        files[TOKENIZER] = model.tokenizer.encode("utf-8")
    artifact.write(path, files | dict(extra or {}), marker=SPEC)


def _contiguous(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays as safetensors' numpy way takes them: contiguous, in dtypes that numpy has itself."""
    return {name: np.ascontiguousarray(array, np.float32 if array.dtype.name == "bfloat16" else None) for name, array in arrays.items()}
