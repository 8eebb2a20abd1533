"""Direct lowering: a `LanguageModel` becomes the bytes of a .tflite, written op by op.

Example:
    >>> lowered = lower(model)
    >>> Path("model.tflite").write_bytes(lowered.tflite)
    >>> lowered.encodings["embedding.weight"], lowered.notes
    (<Encoding.INT8: 'int8'>, ('int4-block32 takes columns in multiples of 32: 1 stored as int8 (embedding.weight)',))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgelm.errors import UnsupportedModelError
from edgelm.lower.recurrent import build_recurrent
from edgelm.lower.static import float_islands
from edgelm.lower.store import WeightStore
from edgelm.lower.transformer import build_transformer, default_ladder, default_prefills
from edgelm.model import LanguageModel
from edgelm.recipe import Form
from edgelm.spec import Encoding, RecurrentSpec, TransformerSpec
from edgelm.tflite.writer import ModelBuilder


@dataclass(frozen=True)
class Lowered:
    """A lowered model.

    Attributes:
        tflite: The bytes of the file, without metadata of ours.
        encodings: Canonical name -> what each weight really became; weights folded into others are named too.
        notes: What differs from what was asked for, and why, one sentence each.
        ladder: Cache sizes C of the `decode_C` signatures, ascending; empty for recurrent models.
        prefills: T of each `prefill_T` -> its cache slots.
    """

    tflite: bytes
    encodings: Mapping[str, Encoding]
    notes: tuple[str, ...] = ()
    ladder: tuple[int, ...] = ()
    prefills: Mapping[int, int] = field(default_factory=dict)


def lower(model: LanguageModel, *, form: Form = "litert", ladder: tuple[int, ...] | None = None, prefill: int | None = None) -> Lowered:
    """Writes a model as a .tflite: `step` for recurrent models, `decode_C` and `prefill_T` for transformers.

    `edgelm.lower.recurrent` and `edgelm.lower.transformer` document the signatures.

    Args:
        model: What to lower; its `encodings` say how weights are stored.
        form: The runtime it is for. `tflite-2.14` runs everywhere, but has no 4-bit kernels and no per-row kernels: it multiplies by
            the row scales afterwards.
        ladder: Cache sizes of a transformer; by default `default_ladder(spec)`.
        prefill: Tokens of the one `prefill` signature of a transformer, which has the largest cache; 0 for no such signature. By
            default `default_prefills(ladder)`, but none for int8 weights in `tflite-2.14`, whose kernels for several rows crash on
            arm64 cores with dot products.

    Returns:
        The file's bytes and what became of each weight.

    Raises:
        UnsupportedModelError: A weight cannot be stored (NaN, infinite, too large for float16), or a cache or prefill size is not
            between 1 and `max_positions`.
    """
    store, builder = WeightStore(model, form), ModelBuilder()
    islands = (float_islands(model.spec),) if model.ranges else ()
    if isinstance(model.spec, RecurrentSpec):
        build_recurrent(model.spec, store, builder)
        return Lowered(builder.finish(), store.encodings, store.notes + islands)
    rungs = tuple(sorted(set(default_ladder(model.spec) if ladder is None else ladder)))
    risky = form == "tflite-2.14" and any(encoding.bits <= 8 for encoding in model.encodings.values())
    _check_sizes(model.spec, rungs, prefill or 0)
    prefills = {prefill: rungs[-1]} if prefill else {}
    if prefill is None and not risky:
        prefills = default_prefills(rungs)
    build_transformer(model.spec, store, builder, rungs, prefills)
    skipped = ("tflite-runtime 2.14 crashes on int8 products of several rows on some arm64 cores: no prefill signature",)
    notes = store.notes + islands + (skipped if risky and prefill is None else ())
    return Lowered(builder.finish(), store.encodings, notes, rungs, prefills)


def _check_sizes(spec: TransformerSpec, ladder: tuple[int, ...], prefill: int) -> None:
    if not ladder or ladder[0] < 1 or ladder[-1] > spec.max_positions or not 0 <= prefill <= spec.max_positions:
        raise UnsupportedModelError(
            f"cache sizes {ladder} with prefill {prefill} do not fit a model of {spec.max_positions} positions",
            allowed=f"cache sizes from 1 to {spec.max_positions}, prefill from 0 to {spec.max_positions}",
        )
