"""The steps a recipe is made of: one frozen dataclass a technique, checked when it is made.

`edgelm.recipe` reads them from TOML; `edgelm.compress` has one file for each that applies it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from edgelm.errors import RecipeError
from edgelm.recipe_training import CompensatesWhenAsked, Training, TrainsWhenAsked, in_range
from edgelm.spec import Encoding

Scope = Literal["layer", "global"]
Importance = Literal["variance", "gradient", "taylor"]
CentroidStart = Literal["kmeans++", "density", "linear"]
Preserved = Literal["sparsity", "clusters"]


@dataclass(frozen=True)
class Quantize:
    """The post-training choice of an encoding for every matrix, and of how to round to it.

    Attributes:
        weights: Encoding of the matrices of the layers.
        embedding: Encoding of the embedding table (and of a tied head).
        head: Encoding of an untied head, and of the dense layers before it.
        keep_float: Patterns (`layers.0.*`) of canonical weight names that stay float32.
        clip: `max` scales each row or block to its largest weight, `mse` to the scale of the least squared rounding error.
        compensate: `gptq` spreads the rounding error of each column over the columns after it (Frantar et al. 2023); wants data.
        bias_correction: Adds the mean error that rounding leaves on the calibration text to the biases (Nagel et al. 2019); wants data.
        calibration_tokens: Training tokens that `compensate` and `bias_correction` look at.
    """

    weights: Encoding
    embedding: Encoding
    head: Encoding
    keep_float: tuple[str, ...] = ()
    clip: Literal["max", "mse"] = "max"
    compensate: Literal["none", "gptq"] = "none"
    bias_correction: bool = False
    calibration_tokens: int = 8192

    def __post_init__(self) -> None:
        in_range(self, "calibration_tokens", 1, 1 << 30)

    @property
    def wants_data(self) -> bool:
        """It looks at text."""
        return self.compensate != "none" or self.bias_correction


@dataclass(frozen=True)
class Finetune:
    """Plain training on the corpus: the control of every technique that trains."""

    train: Training = Training()
    wants_data = True


@dataclass(frozen=True)
class Qat:
    """Quantization-aware training (Jacob et al. 2018): the weights are trained on the grid they are shipped on.

    Attributes:
        weights: Encoding of the matrices of the layers: int8, int4 or int4-block32.
        embedding: Of the table.
        head: Of an untied head, and of the dense layers before it.
        keep_float: Patterns of canonical names that stay float32.
        activations: `dynamic` leaves activations to the runtime; `static` calibrates int8 ranges and trains with them, for NPUs.
        start: The points of the grid where training begins: the `nearest`, or those that `gptq` chooses on training text, which leaves
            less to train at 4 bits.
        learn: `all`, or `scales`: the points of the grid stay as `start` chose them, and scales (codes of clusters, too), biases and norms
            are trained, which cannot lose what `gptq` won (EfficientQAT, Chen et al. 2024).
        preserve: What earlier steps made and this one keeps: `sparsity` (PQAT), `clusters` (CQAT), both (PCQAT).
        train: How.
    """

    weights: Encoding
    embedding: Encoding
    head: Encoding
    keep_float: tuple[str, ...] = ()
    activations: Literal["dynamic", "static"] = "dynamic"
    start: Literal["nearest", "gptq"] = "nearest"
    learn: Literal["all", "scales"] = "all"
    preserve: tuple[Preserved, ...] = ()
    train: Training = Training()
    wants_data = True

    def __post_init__(self) -> None:
        if self.start == "gptq" and self.preserve:
            raise RecipeError(f"qat: start = gptq with preserve = {list(self.preserve)}", allowed="start = nearest")


@dataclass(frozen=True)
class Prune(CompensatesWhenAsked):
    """Weights of small magnitude become zero while training goes on (Zhu & Gupta 2018).

    Attributes:
        sparsity: Share of zeros in the end, of the matrices that are pruned.
        pattern: `unstructured`, `N:M` (`2:4`: at most 2 of 4 neighbours of a row are kept, sparsity says nothing then), or `RxC` blocks
            (`1x16`) that are pruned as a whole.
        scope: `layer` prunes every matrix to `sparsity`; `global` ranks all weights (each divided by its matrix' RMS) together.
        threshold: Above 0, prunes what is smaller than this many times its matrix' RMS, instead of a share.
        initial_sparsity: Where the schedule begins.
        schedule: Shares of the training at which sparsity begins to rise and has risen, along a cubic polynomial.
        skip: Patterns of canonical names that stay dense.
        sparsity_of: Pattern of canonical names -> sparsity of each matrix it matches, instead of `sparsity`.
        compensate: `gptq` prunes at once, before the training: the weights that stay make up for those that go (SparseGPT, Frantar &
            Alistarh 2023); wants data.
        calibration_tokens: Training tokens that `compensate` looks at.
        train: How; without epochs it prunes at once.
    """

    sparsity: float = 0.5
    pattern: str = "unstructured"
    scope: Scope = "layer"
    threshold: float = 0.0
    initial_sparsity: float = 0.0
    schedule: tuple[float, float] = (0.0, 0.6)
    skip: tuple[str, ...] = ()
    sparsity_of: dict[str, float] = field(default_factory=dict)
    compensate: Literal["none", "gptq"] = "none"
    calibration_tokens: int = 8192
    train: Training = Training()

    def __post_init__(self) -> None:
        in_range(self, "sparsity", 0, 0.99)
        for pattern, sparsity in self.sparsity_of.items():
            if not isinstance(sparsity, int | float) or not 0 <= sparsity <= 0.99:
                raise RecipeError(f"prune: sparsity_of {pattern} = {sparsity!r}", allowed="0 to 0.99")
        in_range(self, "initial_sparsity", 0, 0.99)
        in_range(self, "threshold", 0, 100)
        if not re.fullmatch(r"unstructured|[1-9]\d*[:x][1-9]\d*", self.pattern):
            raise RecipeError(f"prune: pattern = {self.pattern!r}", allowed="unstructured, N:M such as 2:4, or RxC blocks such as 1x16")
        begin, end = self.schedule
        if not 0 <= begin < end <= 1:
            raise RecipeError(f"prune: schedule = {list(self.schedule)}", allowed="[begin, end] with 0 <= begin < end <= 1")
        in_range(self, "calibration_tokens", 1, 1 << 30)

    @property
    def rise(self) -> tuple[float, float]:
        """Shares of the training between which zeros come: `schedule`, and with `compensate` none, since all are there before."""
        return self.schedule if self.compensate == "none" else (0.0, 0.0)


@dataclass(frozen=True)
class Structure:
    """Whole neurons, heads, columns or layers are taken out: the model really shrinks.

    Attributes:
        units: Share of the recurrent units of each layer that goes.
        ffn: Share of the feed-forward neurons of each block (and of the units of hidden dense layers) that goes.
        heads: Share of the attention heads that goes; as many of each group where heads share keys, or whole groups.
        width: Share of the columns of the embedding (the residual stream) that goes.
        layers: Share of the layers that goes.
        importance: `variance` of activations, `gradient` norm, or first-order `taylor` (Molchanov et al. 2017).
        calibration_tokens: Training tokens the importance is measured on.
        train: Retraining afterwards.
    """

    units: float = 0.0
    ffn: float = 0.0
    heads: float = 0.0
    width: float = 0.0
    layers: float = 0.0
    importance: Importance = "taylor"
    calibration_tokens: int = 16_384
    train: Training = Training()
    wants_data = True

    def __post_init__(self) -> None:
        for name in ("units", "ffn", "heads", "width", "layers"):
            in_range(self, name, 0, 0.95)


@dataclass(frozen=True)
class Cluster(CompensatesWhenAsked):
    """Weights of a matrix share few values (Han et al. 2016).

    Attributes:
        clusters: Distinct values a matrix.
        start: Where k-means begins: `kmeans++` (Arthur & Vassilvitskii 2007), `density` or `linear`.
        preserve_sparsity: Zeros stay zero: one of the values is 0.
        skip: Patterns of canonical names that are left alone.
        compensate: `gptq` chooses values so that each column makes up for the errors of those before it; wants data.
        calibration_tokens: Training tokens that `compensate` looks at.
        train: Retraining of the shared values.
    """

    clusters: int = 16
    start: CentroidStart = "kmeans++"
    preserve_sparsity: bool = False
    skip: tuple[str, ...] = ()
    compensate: Literal["none", "gptq"] = "none"
    calibration_tokens: int = 8192
    train: Training = Training()

    def __post_init__(self) -> None:
        in_range(self, "clusters", 2, 255)
        in_range(self, "calibration_tokens", 1, 1 << 30)


@dataclass(frozen=True)
class Share(TrainsWhenAsked):
    """Parts of the model become one.

    Attributes:
        kind: `tie` makes the head read the embedding table; `layers` repeats groups of layers (Lan et al. 2020, ALBERT);
            `neurons` merges similar units; `low-rank` factorises embedding and projections by SVD.
        amount: `layers`: layers that stay distinct, as a share; `neurons`: share of units merged away; `low-rank`: share of the rank kept.
        train: Retraining afterwards.
    """

    kind: Literal["tie", "layers", "neurons", "low-rank"]
    amount: float = 0.5
    train: Training = Training()

    def __post_init__(self) -> None:
        in_range(self, "amount", 0.01, 1)


@dataclass(frozen=True)
class Distill:
    """A new, smaller student learns from a teacher (Hinton et al. 2015).

    Attributes:
        student: Changes to the spec of the model that is distilled (`units = [256]`), or a whole spec with its `family`.
        teacher: `source` for the model itself, or the path of another one with the same tokenizer.
        temperature: Softens both distributions.
        alpha: Share of the cross-entropy: loss = alpha * CE + (1 - alpha) * temperature**2 * KL. 1 trains without the teacher.
        top_k: The teacher runs once and its largest logits of each position are kept; 0 runs it at every step, with all logits.
        hidden: Weight of a squared error between the last hidden states; 0 for none.
        train: How; from fresh weights, so one pass is little.
    """

    student: dict[str, Any] = field(default_factory=dict)
    teacher: str = "source"
    temperature: float = 1.0
    alpha: float = 0.3
    top_k: int = 32
    hidden: float = 0.0
    train: Training = Training(learning_rate=2e-3)
    wants_data = True

    def __post_init__(self) -> None:
        in_range(self, "temperature", 0.1, 100)
        in_range(self, "alpha", 0, 1)
        in_range(self, "top_k", 0, 4096)
        in_range(self, "hidden", 0, 1000)


@dataclass(frozen=True)
class LowBit(TrainsWhenAsked):
    """Ternary {-1, 0, 1} or binary {-1, 1} weights with scales, trained straight-through.

    Attributes:
        values: `ternary` (Zhu et al. 2017, Li & Liu 2016) or `binary` (Rastegari et al. 2016).
        scale: One a `row`, or one for each `block32`.
        embedding: Encoding of the table, quantization-aware as in `Qat`.
        head: Of an untied head, and of the dense layers before it.
        keep_float: Patterns of canonical names that stay float32.
        train: How; without epochs weights are only rounded.
    """

    values: Literal["ternary", "binary"]
    scale: Literal["row", "block32"] = "block32"
    embedding: Encoding = Encoding.INT8
    head: Encoding = Encoding.INT8
    keep_float: tuple[str, ...] = ()
    train: Training = Training(learning_rate=1e-3)


@dataclass(frozen=True)
class Mixed:
    """The bit widths, matrix by matrix, that cost the least loss under a size budget.

    Attributes:
        candidates: Encodings to choose from.
        size_of: Encoding whose size for the whole model is the budget's measure.
        size_factor: Budget in multiples of that size.
        keep_float: Patterns of canonical names that stay float32.
        calibration_tokens: Training tokens the sensitivity of each matrix is measured on.
        clip: As in `Quantize`.
        compensate: As in `Quantize`.
    """

    candidates: tuple[Encoding, ...] = (Encoding.INT4_BLOCK32, Encoding.INT8)
    size_of: Encoding = Encoding.INT4_BLOCK32
    size_factor: float = 1.1
    keep_float: tuple[str, ...] = ()
    calibration_tokens: int = 16_384
    clip: Literal["max", "mse"] = "max"
    compensate: Literal["none", "gptq"] = "none"
    wants_data = True

    def __post_init__(self) -> None:
        in_range(self, "size_factor", 0.1, 10)


Step = Quantize | Finetune | Qat | Prune | Structure | Cluster | Share | Distill | LowBit | Mixed

STEPS: dict[str, type[Step]] = {
    "quantize": Quantize,
    "finetune": Finetune,
    "qat": Qat,
    "prune": Prune,
    "structure": Structure,
    "cluster": Cluster,
    "share": Share,
    "distill": Distill,
    "lowbit": LowBit,
    "mixed": Mixed,
}
"""Technique as recipes name it -> its step."""


def technique_of(step: Step) -> str:
    """The name a recipe has for a step.

    Example:
        >>> technique_of(Prune())
        'prune'
    """
    return next(name for name, kind in STEPS.items() if isinstance(step, kind))


def step_to_dict(step: Step) -> dict[str, Any]:
    """A step as plain JSON values, without what equals the technique's default; `edgelm.recipe` reads it back.

    Example:
        >>> step_to_dict(LowBit("ternary", train=Training(epochs=2, learning_rate=1e-3)))
        {'technique': 'lowbit', 'values': 'ternary', 'train': {'epochs': 2}}
    """
    return {"technique": technique_of(step)} | _plain(step)


def default_of(item: dataclasses.Field[Any]) -> Any:
    """The default of a field; `dataclasses.MISSING` where it has none."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _plain(value: Any, default: Any = None) -> dict[str, Any]:
    """The fields that differ from those of `default`, or from the defaults of the class."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        met, usual = getattr(value, item.name), getattr(default, item.name) if default is not None else default_of(item)
        if met == usual:
            continue
        if isinstance(met, Training):
            plain[item.name] = _plain(met, usual)
        elif isinstance(met, tuple):
            plain[item.name] = [part.value if isinstance(part, Encoding) else part for part in met]
        else:
            plain[item.name] = met.value if isinstance(met, Encoding) else met
    return plain
