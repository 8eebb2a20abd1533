"""From what the user names to an `Imported` model: bundled models, edgelm folders, Keras files and SavedModels."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edgelm.errors import SourceError
from edgelm.model import Imported, LanguageModel, OpaqueGraph, Origin, SourceLogits
from edgelm.models import reference
from edgelm.spec import spec_from_dict
from edgelm.text.tokenizer import Tokenizer, check_vocabulary

SPEC, WEIGHTS, TOKENIZER = "spec.json", "weights.safetensors", "tokenizer.json"

Reader = Callable[..., Imported]

SUFFIXES: dict[str, str] = {
    ".keras": "edgelm_converters.keras",
    ".h5": "edgelm_converters.keras",
    ".hdf5": "edgelm_converters.keras",
}
"""File ending -> module whose `read(path, trust=, name=)` imports it. A folder with `saved_model.pb` goes the same way."""


def bundled() -> dict[str, Path]:
    """Name -> folder of the trained reference models that come with edgelm."""
    folder = Path(str(resources.files("edgelm"))) / "reference_models"
    return {entry.name: entry for entry in sorted(folder.iterdir()) if (entry / SPEC).is_file()} if folder.is_dir() else {}


def load(source: str | Path, *, trust: bool = False, tokenizer: Path | None = None) -> Imported:
    """Reads a model, with its tokenizer when one lies beside it or is named.

    Args:
        source: The name of a bundled model, an edgelm folder (`spec.json` + `weights.safetensors`), a `.keras` or `.h5` file, or a
            SavedModel folder.
        trust: Execute code from the file where it needs that (Lambda layers, custom classes).
        tokenizer: A tokenizer file or folder; by default `tokenizer.json` beside the model.

    Raises:
        SourceError: Missing, unknown kind, truncated or corrupt.
        UnsupportedModelError: Read, but no language model that edgelm can convert.
        TokenizerError: The tokenizer cannot be read or has more entries than the model has rows.
    """
    path = bundled().get(str(source)) or Path(source)
    imported = _reader(path)(path, trust=trust, name=_name(path))
    text = _tokenizer_text(path, tokenizer, imported.model)
    model = imported.model
    sha256 = content_sha256(path)
    if isinstance(model, LanguageModel):
        return Imported(model.replace(tokenizer=text, source_sha256=sha256), imported.source_logits)
    return Imported(OpaqueGraph(**{**vars(model), "tokenizer": text, "source_sha256": sha256}), imported.source_logits)


def _name(path: Path) -> str:
    return path.resolve().name.removesuffix(path.suffix) or "model"


def _reader(path: Path) -> Reader:
    known = "a bundled model (" + ", ".join(bundled()) + "), .keras, .h5, a SavedModel folder, or an edgelm model folder"
    if not path.exists():
        raise SourceError(f"no model at {path}", allowed=known, fix="edgelm doctor")
    if path.is_dir():
        if (path / SPEC).is_file():
            return read_folder
        module = SUFFIXES[".keras"] if (path / "saved_model.pb").is_file() else None
    else:
        module = SUFFIXES.get(path.suffix.lower())
    if module is None:
        raise SourceError(f"{path} is no kind of model that edgelm reads", allowed=known)
    reader: Reader = importlib.import_module(module).read
    return reader


def _tokenizer_text(path: Path, named: Path | None, model: LanguageModel | OpaqueGraph) -> str | None:
    beside = (path if path.is_dir() else path.parent) / TOKENIZER
    place = named or (beside if beside.is_file() else None)
    if place is None:
        return None
    tokenizer = Tokenizer.load(place)
    check_vocabulary(tokenizer, model.spec.vocab_size if isinstance(model, LanguageModel) else model.vocab_size)
    return tokenizer.to_json()


def content_sha256(path: Path) -> str:
    """SHA-256 over the names and bytes of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_folder(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Reads edgelm's own folder: `spec.json` and `weights.safetensors` in canonical names (float16 or float32).

    Raises:
        SourceError: A file is missing or damaged.
        UnsupportedModelError: Spec and weights do not belong together.
    """
    del trust  # nothing in this format can execute
    try:
        plain = json.loads((path / SPEC).read_text(encoding="utf-8"))
        with safe_open(path / WEIGHTS, framework="numpy") as file:
            weights: dict[str, NDArray[Any]] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise SourceError(f"the model folder {path} cannot be read: {error}", allowed=f"{SPEC}, {WEIGHTS} and {TOKENIZER}") from error
    if not isinstance(plain, dict):
        raise SourceError(f"{path / SPEC} is no table of spec keys")
    origin = Origin("edgelm", f"numpy {np.__version__} reference", "native", "edgelm's own folder of spec and weights")
    model = LanguageModel(spec_from_dict(plain), weights, name=name or path.name, origin=origin)
    return Imported(model, source_logits_of(model))


def source_logits_of(model: LanguageModel) -> SourceLogits:
    """The numpy reference of a model as a source."""
    return lambda ids: reference.logits(model, ids)


def write_folder(model: LanguageModel, path: Path) -> None:
    """Writes edgelm's own folder, weights as they are in the model."""
    from safetensors.numpy import save_file

    from edgelm.spec import spec_to_dict

    path.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in model.weights.items()}, path / WEIGHTS)
    (path / SPEC).write_text(json.dumps(spec_to_dict(model.spec), indent=1) + "\n", encoding="utf-8")
    if model.tokenizer:
        (path / TOKENIZER).write_text(model.tokenizer, encoding="utf-8")
