"""Imports Hugging Face model folders: config.json, safetensors, and the tokenizer beside them. No framework is needed.

The architecture is a row of the table in `hf_architectures`; nothing in the folder is executed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelm.errors import SourceError, UnsupportedModelError
from edgelm.model import Imported, LanguageModel, Origin
from edgelm.models import reference
from edgelm_converters.hf_architectures import ARCHITECTURES, REFUSED, Architecture
from edgelm_converters.hf_config import ONNX_WAY, Config
from edgelm_converters.hf_weights import canonical_weights
from edgelm_converters.safetensors_files import INDEX, WEIGHTS, read_json, read_tensors

CONFIG, ADAPTER = "config.json", "adapter_config.json"

FORMAT = "huggingface"

_SAVE_AGAIN = (
    'save it again as safetensors, in Python: AutoModelForCausalLM.from_pretrained("{folder}").save_pretrained("NEW", '
    "safe_serialization=True), then edgelm convert NEW"
)


def read(path: Path, *, trust: bool = False, name: str | None = None) -> Imported:
    """Imports a Hugging Face model folder.

    Args:
        path: With config.json and model.safetensors, or model.safetensors.index.json and its shards.
        trust: Nothing in such a folder is executed, with or without it.
        name: For reports; by default the folder's name.

    Returns:
        A `LanguageModel` whose weights are mapped, in 32 or 16 bits as they are stored. Its `source_logits` are those of
        the numpy reference: no framework is there to prove against. Tokenizer and hash are left to the caller.

    Raises:
        SourceError: A file is missing, truncated or damaged, or config.json and weights do not belong together.
        UnsupportedModelError: An architecture, quantization or variant that the table does not have.

    Example:
        >>> model = read(Path("SmolLM2-135M")).model
        >>> model.spec.layers, model.spec.kv_heads, model.parameters
        (30, 3, 134515008)
    """
    del trust  # nothing in this format can execute
    if not (path / CONFIG).is_file():
        raise _without_config(path)
    config = Config(path / CONFIG, read_json(path / CONFIG))
    architecture = _architecture(config)
    _require_float(config)
    _require_safetensors(path)
    spec = architecture.spec(config)
    weights = canonical_weights(spec, read_tensors(path), architecture.names, architecture.prefixes, architecture.ignored)
    model = LanguageModel(spec, weights, name=name or path.resolve().name, origin=_origin(architecture, config))
    return Imported(model, lambda ids: np.asarray(reference.logits(model, ids), np.float32))


def _architecture(config: Config) -> Architecture:
    """The row of the table that config.json names."""
    kind, classes = config.plain.get("model_type"), config.plain.get("architectures")
    known = ", ".join(ARCHITECTURES)
    if not isinstance(kind, str):
        raise SourceError(f"{config.path} has no model_type: it is no config of transformers", allowed=known)
    if kind in REFUSED:
        raise UnsupportedModelError(f"{config.path}: {kind} is in no family edgelm has: {REFUSED[kind]}", allowed=known, fix=ONNX_WAY)
    if kind not in ARCHITECTURES:
        raise UnsupportedModelError(f"{config.path}: architecture {kind} is not known", allowed=known, fix=ONNX_WAY)
    architecture = ARCHITECTURES[kind]
    if classes and classes != [architecture.head_class]:
        raise UnsupportedModelError(f"{config.path}: {classes} is no language model with a head", allowed=architecture.head_class)
    return architecture


def _require_float(config: Config) -> None:
    """Refuses weights that another tool has quantized."""
    if not config.has("quantization_config"):
        return
    settings = config.plain["quantization_config"]
    method = settings.get("quant_method", "an unknown method") if isinstance(settings, dict) else "an unknown method"
    raise UnsupportedModelError(
        f"{config.path}: its weights are quantized by {method}",
        allowed="float32, float16 and bfloat16 weights: edgelm quantizes them itself",
        fix="convert the model that it was quantized from",
    )


def _require_safetensors(folder: Path) -> None:
    """Refuses folders without weights that can be read as data."""
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf") for file in folder.glob(pattern))
    fix = _SAVE_AGAIN.format(folder=folder)
    if others:
        raise SourceError(
            f"{folder} has its weights in {others[0]} only, which edgelm does not read", allowed=f"{WEIGHTS} or {INDEX}", fix=fix
        )
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    if shards:
        raise SourceError(f"{folder} has {shards[0]}, but no {WEIGHTS} and no {INDEX}", allowed=f"{WEIGHTS} or {INDEX} with its shards")
    raise SourceError(f"{folder} has no weights", allowed=f"{WEIGHTS} or {INDEX}", fix="download the whole folder")


def _without_config(folder: Path) -> SourceError:
    if (folder / ADAPTER).is_file():
        return SourceError(
            f"{folder} is an adapter (LoRA) without its base model",
            allowed="a folder with the whole model",
            fix="merge it, in Python: AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)",
        )
    return SourceError(f"{folder} has no {CONFIG}", allowed=f"{CONFIG} with {WEIGHTS} or {INDEX}", fix="download the whole folder")


def _origin(architecture: Architecture, config: Config) -> Origin:
    """What the report says: which row of the table was used, and what its correctness rests on."""
    why = (
        f"weights taken by the table of {architecture.head_class}, whose logits edgelm's tests compare with transformers; "
        "there is no framework here to prove this file against"
    )
    return Origin(FORMAT, f"numpy {np.__version__} reference", "lifted", ". ".join([why, *config.notes]))
