"""State dicts whose architecture is known: by a `config.json` of Hugging Face beside them, or by the `model_args` they bring along.

nanoGPT (https://github.com/karpathy/nanoGPT, train.py) and llama2.c (https://github.com/karpathy/llama2.c, train.py) save a dictionary of
`model`, a state dict, and `model_args`, the arguments of the model's class. Everything here is data already.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import SourceError
from edgelm.model import Imported, LanguageModel, Origin
from edgelm.models import reference
from edgelm.spec import FloatArray, TransformerSpec, weight_shapes
from edgelm_converters import huggingface
from edgelm_converters.llama2c import halves
from edgelm_converters.safetensors_files import WEIGHTS

_FORMAT = "torch-state-dict"
_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and DataParallel
_INNER = ("state_dict", "model_state_dict", "model")
_ALLOWED = "a state dict with its Hugging Face config.json beside it, or a checkpoint of nanoGPT or llama2.c (model and model_args)"
_FIX = "in Python: edgelm.load(module, example_tokens=ids) with the module the weights were loaded into; or export it to .onnx"
_LARGEST = 1 << 24

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class _Checkpoint:
    """One training script's checkpoints.

    Attributes:
        key: Of `model_args`, by which they are known.
        spec: Makes the spec of the arguments and the tensors.
        names: Our modules -> theirs; `*` stands for the layer.
        ignored: Their tensors that are no weights.
    """

    key: str
    spec: Callable[[_Arguments, Tensors], TransformerSpec]
    names: Mapping[str, str]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Arguments:
    """`model_args` with types."""

    path: Path
    plain: Mapping[str, Any]

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.plain.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise SourceError(f"{self.path}: {key} = {value!r} in its model_args", allowed=f"a whole number from 1 to {_LARGEST}")
        return value


def read_checkpoint(path: Path, content: Any, name: str) -> Imported:
    """Imports what a `.pt` file holds.

    Args:
        path: The file; its folder may have the `config.json`.
        content: What `torch.load(weights_only=True)` gave.
        name: For reports.

    Returns:
        A `LanguageModel` with float32 or float16 weights. Its `source_logits` are those of the numpy reference: no framework is there to
        prove against. Tokenizer and hash are left to the caller.

    Raises:
        SourceError: No state dict, one whose architecture is not known, or one that does not fit its architecture.
        UnsupportedModelError: config.json names an architecture that is not known.
    """
    tensors = _tensors(content)
    if not tensors:
        raise SourceError(f"{path} holds no state dict, but {type(content).__name__}", allowed=_ALLOWED, fix=_FIX)
    arguments = content.get("model_args")
    kind = next((kind for kind in _CHECKPOINTS if isinstance(arguments, dict) and kind.key in arguments), None)
    if kind is not None:
        return _known(path, kind, _Arguments(path, arguments), tensors, name)
    if (path.parent / huggingface.CONFIG).is_file():
        return _with_config(path, tensors, name)
    raise SourceError(f"{path} holds weights only ({len(tensors)} tensors): their architecture is not known", allowed=_ALLOWED, fix=_FIX)


def _tensors(content: Any) -> dict[str, Any]:
    """The tensors of a state dict, by names without the prefixes that torch's wrappers add."""
    import torch

    if not isinstance(content, dict):
        return {}
    inner = next((content[key] for key in _INNER if isinstance(content.get(key), dict)), content)
    return {_bare(str(key)): value for key, value in inner.items() if torch.is_tensor(value)}


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _with_config(path: Path, tensors: Tensors, name: str) -> Imported:
    """Through a folder as Hugging Face writes it."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="edgelm-") as temporary:
        folder = Path(temporary)
        shutil.copy(path.parent / huggingface.CONFIG, folder / huggingface.CONFIG)
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS)
        return huggingface.read(folder, name=name)  # its maps outlive the files


def _known(path: Path, kind: _Checkpoint, arguments: _Arguments, tensors: Tensors, name: str) -> Imported:
    spec = kind.spec(arguments, tensors)
    if spec.layers > len(tensors):  # damaged arguments must not make a table of a billion names
        raise SourceError(f"{path} has {len(tensors)} tensors, too few for the {spec.layers} layers of its model_args", allowed=_ALLOWED)
    weights: dict[str, FloatArray] = {}
    used: set[str] = set()
    for ours, shape in weight_shapes(spec).items():
        theirs = _stored_name(ours, kind.names)
        used.add(theirs)
        if theirs not in tensors and theirs.endswith("bias"):
            weights[ours] = np.zeros(shape, np.float32)  # LayerNorm(bias=False), which the spec does not have
            continue
        weights[ours] = _form(path, ours, theirs, tensors, shape, spec)
    for other in tensors.keys() - used:
        if not any(fnmatch.fnmatchcase(other, pattern) for pattern in kind.ignored):
            raise SourceError(f"{path}: tensor {other} has no place in the model that its model_args describe", allowed=_ALLOWED)
    why = f"a checkpoint whose model_args have {kind.key}, taken by a table of names; there is no framework to prove this file against"
    model = LanguageModel(spec, weights, name=name, origin=Origin(_FORMAT, f"numpy {np.__version__} reference", "lifted", why))
    return Imported(model, lambda ids: np.asarray(reference.logits(model, ids), np.float32))


def _stored_name(ours: str, names: Mapping[str, str]) -> str:
    """`layers.3.q.bias` -> `transformer.h.3.attn.c_attn.bias`."""
    module, _, kind = ours.rpartition(".")
    layer = re.match(r"layers\.(\d+)\.", module)
    theirs = names[re.sub(r"^layers\.\d+\.", "layers.*.", module)]
    return f"{theirs.replace('*', layer[1]) if layer else theirs}.{kind}"


def _form(path: Path, ours: str, theirs: str, tensors: Tensors, shape: tuple[int, ...], spec: TransformerSpec) -> FloatArray:
    """One weight in our form: a third of a fused c_attn, pairs of rotary columns as halves, else as it is."""
    if theirs not in tensors:
        raise SourceError(f"{path}: tensor {theirs} is missing", allowed=_ALLOWED)
    weight = _array(tensors[theirs])
    part = ours.split(".")[-2]
    if ".c_attn." in theirs and len(weight) == 3 * shape[0]:
        weight = np.split(weight, 3)["qkv".index(part)]
    if weight.shape != shape:
        raise SourceError(f"{path}: tensor {theirs} is {weight.shape}", allowed=f"{shape}, as its model_args say")
    return halves(weight, spec.head_dim) if spec.position == "rotary" and part in ("q", "k") else weight


def _array(tensor: Any) -> NDArray[Any]:
    import torch

    plain = tensor.detach()
    return np.asarray((plain if plain.dtype == torch.float16 else plain.float()).cpu().numpy())


def _nanogpt(arguments: _Arguments, tensors: Tensors) -> TransformerSpec:
    width, heads = arguments.size("n_embd"), arguments.size("n_head")
    bias = "transformer.h.0.attn.c_attn.bias" in tensors
    return TransformerSpec(
        vocab_size=arguments.size("vocab_size", 50304),
        width=width,
        layers=arguments.size("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=max(width // heads, 1),
        ffn_size=4 * width,
        max_positions=arguments.size("block_size"),
        position="learned",
        norm="layer",
        activation="gelu",
        gated=False,
        qkv_bias=bias,
        output_bias=bias,
        ffn_bias=bias,
    )


def _llama2c(arguments: _Arguments, tensors: Tensors) -> TransformerSpec:
    import torch

    width, heads = arguments.size("dim"), arguments.size("n_heads")
    up, table, head = (tensors.get(name) for name in ("layers.0.feed_forward.w3.weight", "tok_embeddings.weight", "output.weight"))
    return TransformerSpec(
        vocab_size=arguments.size("vocab_size"),
        width=width,
        layers=arguments.size("n_layers"),
        heads=heads,
        kv_heads=arguments.size("n_kv_heads", heads),
        head_dim=max(width // heads, 1),
        ffn_size=len(up) if up is not None else 1,
        max_positions=arguments.size("max_seq_len"),
        norm_eps=float(arguments.plain.get("norm_eps", 1e-5)),
        tied_head=head is None or (table is not None and torch.equal(table, head)),
    )


_CHECKPOINTS = (
    _Checkpoint(
        "n_embd",
        _nanogpt,
        {
            "embedding": "transformer.wte",
            "positions": "transformer.wpe",
            "layers.*.attention_norm": "transformer.h.*.ln_1",
            **{f"layers.*.{part}": "transformer.h.*.attn.c_attn" for part in "qkv"},
            "layers.*.o": "transformer.h.*.attn.c_proj",
            "layers.*.ffn_norm": "transformer.h.*.ln_2",
            "layers.*.up": "transformer.h.*.mlp.c_fc",
            "layers.*.down": "transformer.h.*.mlp.c_proj",
            "final_norm": "transformer.ln_f",
        },
        ("lm_head.weight", "transformer.h.*.attn.bias"),
    ),
    _Checkpoint(
        "dim",
        _llama2c,
        {
            "embedding": "tok_embeddings",
            "layers.*.attention_norm": "layers.*.attention_norm",
            **{f"layers.*.{part}": f"layers.*.attention.w{part}" for part in "qkvo"},
            "layers.*.ffn_norm": "layers.*.ffn_norm",
            "layers.*.gate": "layers.*.feed_forward.w1",
            "layers.*.down": "layers.*.feed_forward.w2",
            "layers.*.up": "layers.*.feed_forward.w3",
            "final_norm": "norm",
            "head": "output",
        },
        ("output.weight", "layers.*.attention.mask", "freqs_cos", "freqs_sin"),
    ),
)
