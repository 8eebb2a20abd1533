"""Models whose grids a technique fixed (`LanguageModel.scales`): the file holds exactly their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from lowered_models import encoded, random_model, relative_error, run_decodes, run_steps
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models.reference import logits
from edgelm.recipe import Form
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec
from edgelm.tflite.reader import TfliteModel, read, weight_values

VOCAB = 24
POSITIONS = 16
LARGEST = {Encoding.INT8: 127, Encoding.INT4: 7, Encoding.INT4_BLOCK32: 7}
ROUNDED_ACTIVATIONS = 0.03  # hybrid kernels round activations to 8 bits; see test_recurrent.bound

LSTM = RecurrentSpec(VOCAB, 32, "lstm", (64, 32), hidden=(DenseLayer(32),), tied_head=True)
LLAMA = TransformerSpec(VOCAB, 64, 2, heads=4, kv_heads=2, head_dim=32, ffn_size=96, max_positions=POSITIONS)
SPECS: Mapping[str, ModelSpec] = {
    "lstm": LSTM,
    "cifg": replace(LSTM, cell="cifg", tied_head=False),
    "gru": replace(LSTM, cell="gru"),
    "gru-reset-before": replace(LSTM, cell="gru", reset_after=False),
    "gate-embedding": RecurrentSpec(VOCAB, 128, "lstm", (32,), gate_embedding=True, embedding_projection=0),
    "llama": LLAMA,
    "llama-score-scale-of-a-quarter": replace(LLAMA, head_dim=16, tied_head=False),
    "gpt2": replace(
        LLAMA, position="learned", norm="layer", gated=False, activation="gelu", kv_heads=4, qkv_bias=True, output_bias=True, ffn_bias=True
    ),
    "qk-norm": replace(LLAMA, qk_norm=True),
}


def trained_model(spec: ModelSpec, encoding: Encoding, largest: int, seed: int = 0) -> LanguageModel:
    """A model on grids that the largest weights do not tell: codes up to `largest`, scales of three sizes in each matrix."""
    rng = np.random.default_rng(seed)
    model = encoded(random_model(spec, seed), encoding)
    weights, scales = dict(model.weights), {}
    for name in model.encodings:
        rows, columns = weights[name].shape
        blocks = columns // 32 if encoding is Encoding.INT4_BLOCK32 else 1
        sizes = np.array([2.0**-4, 1.5 * 2.0**-4, 1.25 * 2.0**-3], np.float32) / max(largest, 2)
        if encoding is Encoding.INT4_BLOCK32:
            sizes = ((sizes.view(np.uint32) >> 16) << 16).view(np.float32)  # bfloat16, as training gives them
        scales[name] = rng.choice(sizes, (rows, blocks)).astype(np.float32)
        codes = rng.integers(-largest, largest + 1, (rows, blocks, columns // blocks)).astype(np.float32)
        codes[0] = 0.0  # a row of zeros
        weights[name] = (codes * scales[name][:, :, None]).reshape(rows, columns)
    return model.replace(weights=weights, scales=scales)


def stored_weights(tflite: bytes, model: LanguageModel) -> dict[str, NDArray[np.float32]]:
    """Canonical name -> the matrix that a runtime computes with, cut out of what the file joined."""
    file = read(tflite)
    found: dict[str, NDArray[np.float32]] = {}
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for tensor in {tensor.name: tensor for subgraph in file.tensors for tensor in subgraph if tensor.nbytes}.values():
        if len(tensor.shape) != 2 or ".weight" not in tensor.name or tensor.name.endswith(":scales"):
            continue
        values = dequantized(file, tensor.name)
        if tensor.name.startswith("layers.") and tensor.name.count(".") == 2 and tensor.name.endswith(".weight") and is_cell(model):
            at = tensor.name.removesuffix(".weight")
            inputs = model.weights[f"{at}.input.weight"].shape[1]
            found[f"{at}.input.weight"], found[f"{at}.recurrent.weight"] = values[:, :inputs], values[:, inputs:]
            continue
        row = 0
        for name in tensor.name.split(":")[0].split("+"):
            rows = len(values) if ":" in tensor.name else len(model.weights[name])
            parts.setdefault(name, []).append(values[row : row + rows])
            row += rows
    return found | {name: np.concatenate(pieces) for name, pieces in parts.items()}


def is_cell(model: LanguageModel) -> bool:
    return isinstance(model.spec, RecurrentSpec)


def dequantized(file: TfliteModel, name: str) -> NDArray[np.float32]:
    values, scales = weight_values(file, file.tensor(name))
    assert scales is not None
    by_block = scales.astype(np.float32).reshape(len(values), -1, 1)
    return (values.astype(np.float32).reshape(len(values), by_block.shape[1], -1) * by_block).reshape(values.shape)


CASES = [
    (Encoding.INT8, 127),
    (Encoding.INT8, 16),
    (Encoding.INT4, 7),
    (Encoding.INT4, 1),
    (Encoding.INT4_BLOCK32, 7),
    (Encoding.INT4_BLOCK32, 1),
]


@pytest.mark.parametrize(("encoding", "largest"), CASES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_file_holds_exactly_the_weights_of_the_model(spec: ModelSpec, encoding: Encoding, largest: int) -> None:
    model = trained_model(spec, encoding, largest)
    lowered = lower(model, prefill=0)
    stored = stored_weights(lowered.tflite, model)
    assert set(stored) == set(model.scales)
    for name, weight in model.weights.items():
        if name not in model.scales:
            continue
        assert lowered.encodings[name] is encoding, name
        folded = spec.score_scale if name.endswith(".q.weight") and not spec.qk_norm and encoding is not Encoding.INT4_BLOCK32 else 1.0
        if folded == 1.0:
            assert np.array_equal(stored[name], weight), name
        else:  # the score scale makes one more rounding of the scales
            np.testing.assert_allclose(stored[name], weight * np.float32(folded), rtol=3e-7, err_msg=name)


@pytest.mark.parametrize(("encoding", "largest"), CASES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_computes_with_them(spec: ModelSpec, encoding: Encoding, largest: int) -> None:
    model, ids = trained_model(spec, encoding, largest), np.random.default_rng(7).integers(0, VOCAB, POSITIONS)
    tflite = lower(model, prefill=0).tflite
    got = run_steps(tflite, spec, ids) if isinstance(spec, RecurrentSpec) else run_decodes(tflite, spec, ids, (POSITIONS,))
    assert relative_error(got, logits(model, ids[None])[0]) < ROUNDED_ACTIVATIONS


def test_without_scales_the_codes_are_others() -> None:
    model = trained_model(LSTM, Encoding.INT4, 1)
    stored = stored_weights(lower(model.replace(scales={})).tflite, model)
    values, _ = weight_values(read(lower(model.replace(scales={})).tflite), read(lower(model).tflite).tensor("embedding.weight"))
    assert np.abs(values).max() == 7  # the largest weight of a row, whose code was 1
    assert np.allclose(stored["embedding.weight"], model.weights["embedding.weight"], rtol=1e-6)  # and yet nearly the same weights


def test_matrices_with_equal_row_scales_are_one_product() -> None:
    model = trained_model(LSTM, Encoding.INT8, 127)
    assert products(model) == 6  # two a layer, the dense layer, the head
    names = ("layers.1.input.weight", "layers.1.recurrent.weight")
    same = np.full((128, 1), 2.0**-9, np.float32)
    codes = {name: np.rint(model.weights[name] / model.scales[name]) for name in names}
    equal = model.replace(
        weights={**model.weights, **{name: codes[name] * same for name in names}}, scales={**model.scales, **dict.fromkeys(names, same)}
    )
    assert products(equal) == 5
    stored = stored_weights(lower(equal).tflite, equal)
    assert all(np.array_equal(stored[name], equal.weights[name]) for name in names)


def products(model: LanguageModel) -> int:
    return sum(op.name == "FULLY_CONNECTED" for op in read(lower(model).tflite).ops)


def test_scales_of_a_part_leave_the_other_weights_as_they_were() -> None:
    spec = replace(LLAMA, layers=1)
    model = trained_model(spec, Encoding.INT8, 127)
    only = {"layers.0.k.weight": model.scales["layers.0.k.weight"]}
    partly = random_model(spec).replace(encodings=model.encodings, scales=only)
    partly = partly.replace(weights={**partly.weights, "layers.0.k.weight": model.weights["layers.0.k.weight"]})
    stored = stored_weights(lower(partly, prefill=0).tflite, partly)
    assert np.array_equal(stored["layers.0.k.weight"], model.weights["layers.0.k.weight"])
    assert np.allclose(stored["layers.0.v.weight"], partly.weights["layers.0.v.weight"], atol=0.01)


@pytest.mark.parametrize(("encoding", "exact"), [(Encoding.INT8, True), (Encoding.INT4, True), (Encoding.INT4_BLOCK32, False)])
def test_the_old_form_keeps_the_codes_of_rows_as_int8(encoding: Encoding, exact: bool) -> None:
    form: Form = "tflite-2.14"
    model = trained_model(LSTM, encoding, LARGEST[encoding])
    lowered = lower(model, form=form)
    file = read(lowered.tflite)
    name = "layers.0.recurrent.weight"  # 64 columns: two blocks
    values, _ = weight_values(file, file.tensor(f"{name}:unscaled"))
    assert lowered.encodings[name] is Encoding.INT8
    assert np.array_equal(values, np.rint(model.weights[name] / model.scales[name])) if exact else np.abs(values).max() == 127
    ids = np.random.default_rng(7).integers(0, VOCAB, POSITIONS)
    assert relative_error(run_steps(lowered.tflite, LSTM, ids, form), logits(model, ids[None])[0]) < ROUNDED_ACTIVATIONS


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16])
def test_scales_of_float_weights_do_not_matter(encoding: Encoding) -> None:
    model = trained_model(LSTM, Encoding.INT8, 127)
    model = encoded(model, encoding)
    assert lower(model).tflite == lower(model.replace(scales={})).tflite


def test_a_weight_beside_its_grid_is_refused_by_name() -> None:
    model = trained_model(LSTM, Encoding.INT4, 7)
    moved = model.replace(weights={**model.weights, "hidden.0.weight": model.weights["hidden.0.weight"] + 1e-3})
    with pytest.raises(UnsupportedModelError, match=r"hidden\.0\.weight lies up to .* beside the grid"):
        lower(moved)


def test_equal_weights_in_different_places_keep_their_own_scales() -> None:
    """Clustered and pruned matrices can be equal byte by byte; only their scales tell them apart."""
    spec = RecurrentSpec(VOCAB, 32, "lstm", (32, 32))
    model = trained_model(spec, Encoding.INT8, 16)
    codes = np.sign(model.weights["layers.0.input.weight"])
    weights, scales = dict(model.weights), dict(model.scales)
    for number, name in enumerate(("layers.0.input.weight", "layers.0.recurrent.weight", "layers.1.input.weight")):
        scales[name] = np.full((128, 1), 2.0 ** -(3 + number), np.float32)
        weights[name] = codes * scales[name]
    model = model.replace(weights=weights, scales=scales)
    stored = stored_weights(lower(model).tflite, model)
    assert all(np.array_equal(stored[name], weights[name]) for name in scales)
