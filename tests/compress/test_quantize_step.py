"""Post-training quantization: grids, clipping, bias correction, and the integers in the file."""

from __future__ import annotations

import numpy as np
import pytest
from calibrated_models import LSTM, SPECS, divergence, documents, step_data, trained, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgelm.compress import bias_correction, quantize
from edgelm.compress.calibration import matrix_inputs, side_by_side
from edgelm.compress.clipping import LARGEST, find_scales, in_blocks, on_grid
from edgelm.compress.rounding import round_model
from edgelm.errors import RecipeError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models import reference
from edgelm.recipe_steps import Quantize
from edgelm.spec import DenseLayer, Encoding, RecurrentSpec, TransformerSpec
from edgelm.tflite import reader
from edgelm.tflite.quantize import dequantize
from edgelm.tflite.quantize import quantize as stored

INTEGERS = tuple(LARGEST)
MATRICES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.sampled_from([32, 64])), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


def everywhere(encoding: Encoding, **how: object) -> Quantize:
    return Quantize(encoding, encoding, encoding, **how)  # type: ignore[arg-type]


def stored_on_grid(model: LanguageModel) -> dict[str, str]:
    """Asserts that the file holds the integers and scales of the model, alone or joined with others; matrix -> dtype in the file."""
    file = reader.read(lower(model).tflite)
    joined = {tensor.name: tensor for tensor in file.tensors[0] if tensor.name.endswith(".weight")}
    met: dict[str, str] = {}
    for key, tensor in joined.items():
        if (names := key.split("+"))[0] not in model.scales:
            continue
        values, scales = reader.weight_values(file, tensor)  # (rows of all, columns), (rows of all,) or (rows of all, blocks)
        wanted = [in_blocks(model.float32(name), model.encoding(name)) / model.scales[name][:, :, None] for name in names]
        np.testing.assert_array_equal(values, np.concatenate([np.rint(w).reshape(len(w), -1) for w in wanted]), err_msg=key)
        assert scales is not None
        fixed = np.concatenate([model.scales[name] * folded_into(model, name) for name in names])
        np.testing.assert_array_equal(scales.astype(np.float32).reshape(fixed.shape), fixed, err_msg=key)
        met |= dict.fromkeys(names, tensor.dtype)
    assert set(met) == set(model.scales)
    return met


def folded_into(model: LanguageModel, name: str) -> np.float32:
    """What the lowering multiplies the scales of a matrix with: those of the rows of a q carry the score scale of the attention."""
    spec = model.spec
    folds = isinstance(spec, TransformerSpec) and name.endswith(".q.weight") and model.encoding(name) is not Encoding.INT4_BLOCK32
    return np.float32(spec.score_scale if folds else 1)  # type: ignore[union-attr]


# --- scales --------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(weight=MATRICES, encoding=st.sampled_from(INTEGERS))
def test_scales_of_the_largest_weight_are_those_of_the_file(weight: np.ndarray, encoding: Encoding) -> None:
    scales = find_scales(weight, encoding, "max")
    q = stored(weight, encoding)
    assert q.scales is not None
    np.testing.assert_array_equal(scales, q.scales.astype(np.float32).reshape(scales.shape))
    np.testing.assert_array_equal(on_grid(weight, scales, encoding), dequantize(q))


@settings(deadline=None, max_examples=30)
@given(weight=MATRICES, encoding=st.sampled_from(INTEGERS))
def test_clipping_never_raises_the_squared_error_of_a_row_or_block(weight: np.ndarray, encoding: Encoding) -> None:
    errors = []
    for clip in ("max", "mse"):
        rounded = on_grid(weight, find_scales(weight, encoding, clip), encoding)  # type: ignore[arg-type]
        errors.append(np.square(in_blocks(rounded - weight, encoding)).sum(axis=2))
    assert (errors[1] <= errors[0]).all()


def test_clipping_cuts_an_outlier_off_where_that_pays() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    weight[0, 7] = 5.0  # at 4 bits its step of 0.71 is coarse for the other 31 weights
    plain, clipped = find_scales(weight, Encoding.INT4_BLOCK32, "max"), find_scales(weight, Encoding.INT4_BLOCK32, "mse")
    assert clipped[0, 0] < plain[0, 0]


def test_a_column_that_counts_much_decides_the_scale() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    weight[0, 7] = 5.0
    importance = np.where(np.arange(32) == 7, 1000.0, 1.0)
    scales = find_scales(weight, Encoding.INT4, "mse", importance)
    assert abs(on_grid(weight, scales, Encoding.INT4)[0, 7] - 5.0) < 0.05  # without importance it is cut down by more


@settings(deadline=None, max_examples=30)
@given(weight=MATRICES)
def test_scales_of_blocks_are_bfloat16_numbers(weight: np.ndarray) -> None:
    scales = find_scales(weight, Encoding.INT4_BLOCK32, "mse")
    assert not (scales.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)


# --- calibration ---------------------------------------------------------------------------------------------------------------


def test_the_inputs_of_a_product_are_summed_over_real_tokens_only() -> None:
    model = untrained(LSTM)
    windows = [np.array([1, 2, 3, 4], np.int32), np.array([5, 6], np.int32)]
    inputs = matrix_inputs(model, windows)
    x = np.concatenate([model.float32("embedding.weight")[window] for window in windows])  # (6, 32)
    assert inputs["layers.0.input.weight"].count == 6
    np.testing.assert_allclose(inputs["layers.0.input.weight"].product, x.T @ x, atol=1e-5)
    np.testing.assert_allclose(inputs["layers.0.input.weight"].mean, x.mean(0), atol=1e-6)
    first = matrix_inputs(model, [windows[1][:1]])["layers.0.recurrent.weight"]
    assert not first.total.any()  # the state before the first token


@pytest.mark.parametrize("kind", SPECS)
def test_every_matrix_of_a_product_is_observed(kind: str) -> None:
    model = untrained(SPECS[kind])
    inputs = matrix_inputs(model, [np.arange(9, dtype=np.int32)])
    assert set(inputs) == {name for name, weight in model.weights.items() if weight.ndim == 2}  # both tables are tied: heads too
    assert {name: len(met.total) for name, met in inputs.items()} == {name: model.weights[name].shape[1] for name in inputs}


def test_windows_side_by_side_keep_all_tokens() -> None:
    windows = [np.arange(length, dtype=np.int32) for length in (5, 2, 9, 3)]
    groups = list(side_by_side(windows, streams=3))
    assert sorted(np.concatenate([ids[real] for ids, real in groups])) == sorted(np.concatenate(windows))
    assert [ids.shape for ids, _ in groups] == [(3, 5), (1, 9)]


# --- the step ------------------------------------------------------------------------------------------------------------------


def test_plain_rounding_is_left_to_the_lowering() -> None:
    model = untrained(LSTM)
    rounded = quantize.apply(model, Quantize(Encoding.INT4_BLOCK32, Encoding.INT8, Encoding.INT8))
    assert rounded.weights is model.weights and not rounded.scales
    assert rounded.encoding("layers.0.input.weight") is Encoding.INT4_BLOCK32
    assert rounded.encoding("hidden.0.weight") is rounded.encoding("embedding.weight") is Encoding.INT8


@pytest.mark.parametrize("how", [{"compensate": "gptq"}, {"bias_correction": True}])
def test_a_step_that_wants_text_says_so(how: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="quantize wants text") as error:
        quantize.apply(untrained(LSTM), everywhere(Encoding.INT8, **how))
    assert "--data CORPUS" in error.value.fix


def test_matrices_kept_float_are_not_touched() -> None:
    model = untrained(LSTM)
    rounded = quantize.apply(model, everywhere(Encoding.INT8, clip="mse", keep_float=("layers.*",)))
    assert rounded.encoding("layers.0.input.weight") is Encoding.FLOAT32 and "layers.0.input.weight" not in rounded.scales
    np.testing.assert_array_equal(rounded.weights["layers.0.recurrent.weight"], model.weights["layers.0.recurrent.weight"])
    assert set(rounded.scales) == {"embedding.weight", "hidden.0.weight"}


def test_columns_that_blocks_do_not_fit_become_8_bits() -> None:
    model = untrained(RecurrentSpec(20, 32, "lstm", (24,), hidden=(DenseLayer(32),), tied_head=True))
    rounded = quantize.apply(model, everywhere(Encoding.INT4_BLOCK32, clip="mse"))
    assert rounded.encoding("layers.0.recurrent.weight") is Encoding.INT8  # 24 columns
    assert rounded.encoding("layers.0.input.weight") is Encoding.INT4_BLOCK32


def test_a_grid_of_an_earlier_step_stays() -> None:
    model = untrained(LSTM)
    first = quantize.apply(model, everywhere(Encoding.INT4, clip="mse"))
    second = quantize.apply(first, everywhere(Encoding.INT4, compensate="gptq"), step_data(model))
    np.testing.assert_array_equal(second.weights["embedding.weight"], first.weights["embedding.weight"])
    assert not quantize.apply(first, everywhere(Encoding.INT8)).scales  # another encoding: another grid


@pytest.mark.parametrize("encoding", INTEGERS)
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("how", [{"clip": "mse"}, {"clip": "mse", "compensate": "gptq", "bias_correction": True}])
def test_the_file_holds_the_chosen_integers(kind: str, encoding: Encoding, how: dict[str, object]) -> None:
    model = untrained(SPECS[kind])
    rounded = quantize.apply(model, everywhere(encoding, **how), step_data(model))
    assert set(rounded.scales) == {name for name, weight in model.weights.items() if weight.ndim == 2}
    assert set(stored_on_grid(rounded).values()) == {"int8" if encoding is Encoding.INT8 else "int4"}


# --- bias correction -----------------------------------------------------------------------------------------------------------


def test_bias_correction_makes_the_mean_output_right() -> None:
    model = untrained(LSTM)
    windows = [document.astype(np.int32) for document in documents(20, 0)]
    rounded = round_model(model, {"hidden.0.weight": Encoding.INT4}, "max")
    corrected = bias_correction.corrected(model, rounded, windows)

    def mean_output(each: LanguageModel) -> np.ndarray:
        x = matrix_inputs(each, windows)["hidden.0.weight"].mean
        return each.float32("hidden.0.weight") @ x + each.float32("hidden.0.bias")  # (rows,)

    # Only this matrix is rounded, so its inputs are the same and nothing but float32 is left of the mean error.
    np.testing.assert_allclose(mean_output(corrected), mean_output(model), atol=1e-6)
    assert np.abs(mean_output(rounded) - mean_output(model)).max() > 1e-4
    assert set(bias_correction.matrices_of(model, "head.bias")) == {"embedding.weight"}
    assert bias_correction.matrices_of(model, "layers.0.input.bias") == ("layers.0.input.weight", "layers.0.recurrent.weight")


def test_a_model_without_biases_is_not_corrected() -> None:
    model = untrained(SPECS["transformer"])
    assert bias_correction.corrected(model, model, []) is model


@pytest.mark.parametrize(("reset_after", "matrices"), [(True, ("layers.0.recurrent.weight",)), (False, ())])
def test_recurrent_biases_take_the_error_of_their_own_matrix(reset_after: bool, matrices: tuple[str, ...]) -> None:
    model = untrained(RecurrentSpec(20, 32, "gru", (32,), reset_after=reset_after))
    assert bias_correction.matrices_of(model, "layers.0.input.bias") == ("layers.0.input.weight",)
    assert bias_correction.matrices_of(model, "head.bias") == ("head.weight",)
    if matrices:
        assert bias_correction.matrices_of(model, "layers.0.recurrent.bias") == matrices


def test_observing_changes_no_logits() -> None:
    model, ids = untrained(LSTM), np.arange(10)[None]
    seen: list[str] = []
    session = reference.ReferenceSession(model, observe=lambda name, inputs: seen.append(name))
    np.testing.assert_array_equal(session.extend(ids), reference.logits(model, ids))
    assert seen == ["layers.0.input.weight", "layers.0.recurrent.weight", "hidden.0.weight", "embedding.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_compensation_keeps_a_trained_model_nearer_than_plain_rounding(kind: str) -> None:
    model = trained(kind)
    data, held_out = step_data(model), documents(40, 9)
    losses = {}
    for compensate in ("none", "gptq"):
        # The table has 8 bits: compensation serves the product of the head, and with 48 words the lookups of a 4-bit table lose more.
        step = Quantize(Encoding.INT4, Encoding.INT8, Encoding.INT4, clip="mse", compensate=compensate)  # type: ignore[arg-type]
        losses[compensate] = divergence(model, quantize.apply(model, step, data), held_out)
    assert losses["gptq"] < 0.8 * losses["none"]  # measured: 0.44 of it for the transformer's layers, less for the LSTM's
