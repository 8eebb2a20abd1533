"""Every recurrent option, lowered and run step by step, against the numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
from lowered_models import RUNTIMES, delegate_parts, encoded, grid_model, random_model, relative_error, run_steps

from edgelm.lower.direct import lower
from edgelm.models.reference import logits
from edgelm.spec import GATES, DenseLayer, Encoding, RecurrentSpec
from edgelm.tflite.reader import read

STEPS = 32
VOCAB = 24
FLOAT_BOUND = 1e-4  # float32 sums in another order, over 32 recurrent steps

ACTIVATIONS = ("linear", "tanh", "relu", "sigmoid", "hard_sigmoid", "gelu", "gelu_tanh", "silu")
SPECS = {
    **{cell: RecurrentSpec(VOCAB, 12, cell, (8,)) for cell in GATES},
    **{f"{cell}-2-layers": RecurrentSpec(VOCAB, 12, cell, (8, 10), head_bias=False) for cell in GATES},
    **{f"{cell}-gate-embedding": RecurrentSpec(VOCAB, GATES[cell] * 8, cell, (8, 6), gate_embedding=True) for cell in GATES},
    "gru-reset-before": RecurrentSpec(VOCAB, 12, "gru", (8, 10), reset_after=False),
    "gru-reset-before-gate-embedding": RecurrentSpec(VOCAB, 24, "gru", (8,), reset_after=False, gate_embedding=True),
    "tied": RecurrentSpec(VOCAB, 8, "lstm", (8,), tied_head=True),
    "tied-by-projection": RecurrentSpec(VOCAB, 12, "cifg", (8,), hidden=(DenseLayer(12),), tied_head=True),
    "hidden": RecurrentSpec(VOCAB, 12, "gru", (8,), hidden=(DenseLayer(9, "gelu"), DenseLayer(7, "silu", bias=False))),
    "embedding-projection": RecurrentSpec(VOCAB, 12, "lstm", (8,), embedding_projection=5),
    **{f"activation-{name}": RecurrentSpec(VOCAB, 12, "lstm", (8,), activation=name) for name in ACTIVATIONS},
    **{f"gates-{name}": RecurrentSpec(VOCAB, 12, "gru", (8,), recurrent_activation=name) for name in ("hard_sigmoid", "relu", "tanh")},
}


def ids_of(spec: RecurrentSpec) -> np.ndarray:
    return np.random.default_rng(7).integers(0, spec.vocab_size, STEPS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_float32_steps_equal_the_reference(spec: RecurrentSpec) -> None:
    model, ids = random_model(spec), ids_of(spec)
    np.testing.assert_allclose(run_steps(lower(model).tflite, spec, ids), logits(model, ids[None])[0], atol=FLOAT_BOUND)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
@pytest.mark.parametrize("name", ["rnn", "gru", "gru-reset-before", "cifg-2-layers", "tied", "lstm-gate-embedding"])
def test_the_old_form_is_right_on_both_runtimes(name: str, encoding: Encoding, runtime: str) -> None:
    model, ids = grid_model(SPECS[name], encoding), ids_of(SPECS[name])
    got = run_steps(lower(model, form="tflite-2.14").tflite, SPECS[name], ids, runtime)
    assert relative_error(got, logits(model, ids[None])[0]) < bound(encoding)


BLOCKED = {
    **{cell: RecurrentSpec(VOCAB, 32, cell, (64, 32)) for cell in GATES},
    "gru-reset-before": RecurrentSpec(VOCAB, 32, "gru", (64,), reset_after=False),
    "tied": RecurrentSpec(VOCAB, 32, "lstm", (64,), hidden=(DenseLayer(32),), tied_head=True),
}


@pytest.mark.parametrize("encoding", [Encoding.FLOAT16, Encoding.INT8, Encoding.INT4, Encoding.INT4_BLOCK32])
@pytest.mark.parametrize("spec", BLOCKED.values(), ids=BLOCKED)
def test_encoded_weights_equal_the_reference_but_for_rounded_activations(spec: RecurrentSpec, encoding: Encoding) -> None:
    model, ids = grid_model(spec, encoding), ids_of(spec)
    assert relative_error(run_steps(lower(model).tflite, spec, ids), logits(model, ids[None])[0]) < bound(encoding)


def bound(encoding: Encoding) -> float:
    """The weights lie on the grid, so what is left is hybrid kernels rounding activations to 8 bits a row.

    One rounding is off by peak / 127 / sqrt(12), about 0.7 % of the values' size; 4 in a row and the state's echo stay below 3 %.
    """
    return FLOAT_BOUND if encoding in (Encoding.FLOAT32, Encoding.FLOAT16) else 0.03


@pytest.mark.parametrize("encoding", list(Encoding))
def test_xnnpack_takes_a_step_whole(encoding: Encoding) -> None:
    for spec in [*BLOCKED.values(), *SPECS.values()]:
        assert delegate_parts(lower(encoded(random_model(spec), encoding)).tflite) == 1


def test_columns_that_blocks_of_32_do_not_fit_become_int8_and_are_named() -> None:
    model = encoded(random_model(RecurrentSpec(VOCAB, 32, "lstm", (48,))), Encoding.INT4_BLOCK32)
    lowered = lower(model)
    assert lowered.encodings["layers.0.input.weight"] is Encoding.INT4_BLOCK32
    assert lowered.encodings["layers.0.recurrent.weight"] is Encoding.INT8
    assert lowered.encodings["embedding.weight"] is Encoding.INT4_BLOCK32
    assert lowered.encodings["layers.0.input.bias"] is Encoding.FLOAT32
    assert any("layers.0.recurrent.weight" in note and "multiples of 32" in note for note in lowered.notes)


def test_matrices_are_joined_where_only_their_sum_of_columns_fits_blocks() -> None:
    model = encoded(random_model(RecurrentSpec(VOCAB, 32, "lstm", (48, 16))), Encoding.INT4_BLOCK32)
    lowered = lower(model)
    assert lowered.encodings["layers.1.input.weight"] is Encoding.INT4_BLOCK32
    assert lowered.encodings["layers.1.recurrent.weight"] is Encoding.INT4_BLOCK32


def test_matrices_of_different_encodings_stay_apart() -> None:
    spec = RecurrentSpec(VOCAB, 12, "lstm", (8, 8))
    model = random_model(spec).replace(encodings={"layers.1.recurrent.weight": Encoding.FLOAT16})
    ids = ids_of(spec)
    lowered = lower(model)
    assert lowered.encodings["layers.1.recurrent.weight"] is Encoding.FLOAT16
    assert lowered.encodings["layers.1.input.weight"] is Encoding.FLOAT32
    # float16 weights of 0.3 are off by up to 1.2e-4, times 8 inputs and 32 steps
    np.testing.assert_allclose(run_steps(lowered.tflite, spec, ids), logits(model, ids[None])[0], atol=2e-3)


def test_the_old_form_stores_four_bits_as_int8_and_says_so() -> None:
    lowered = lower(encoded(random_model(BLOCKED["lstm"]), Encoding.INT4), form="tflite-2.14")
    assert set(lowered.encodings.values()) == {Encoding.INT8, Encoding.FLOAT32}
    assert "no 4-bit kernels" in lowered.notes[0]


@pytest.mark.parametrize("form", ["litert", "tflite-2.14"])
@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.INT8])
@pytest.mark.parametrize("name", [*GATES, "gru-reset-before", "tied-by-projection", "gru-gate-embedding"])
def test_a_resized_step_gives_every_stream_what_it_got_alone(name: str, encoding: Encoding, form: str) -> None:
    spec, streams = SPECS[name], 5
    tflite = lower(grid_model(spec, encoding), form=form).tflite
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, VOCAB, streams).astype(np.int32)
    states = {state: rng.normal(0, 0.5, (streams, spec.state_size(state))).astype(np.float32) for state in spec.state_names}
    together = invoke(tflite, {"token": tokens, **states})
    for row in range(streams):
        alone = invoke(tflite, {"token": tokens[row : row + 1], **{state: value[row : row + 1] for state, value in states.items()}})
        for output, value in alone.items():
            np.testing.assert_allclose(together[output][row : row + 1], value, atol=1e-5)


def test_a_tied_table_of_blocks_is_one_buffer_that_streams_are_looked_up_in() -> None:
    spec, tokens = BLOCKED["tied"], np.array([3, 23, 0, 3, 11], np.int32)
    model = grid_model(spec, Encoding.INT4_BLOCK32)
    lowered = lower(model)
    assert lowered.encodings["embedding.weight"] is Encoding.INT4_BLOCK32
    assert lowered.notes == ()
    file = read(lowered.tflite)
    users = {op.name for op in file.ops if any(file.tensors[0][i].name == "embedding.weight" for i in op.inputs if i >= 0)}
    assert users == {"EMBEDDING_LOOKUP", "FULLY_CONNECTED"}
    states = {state: np.zeros((5, spec.state_size(state)), np.float32) for state in spec.state_names}
    got = invoke(lowered.tflite, {"token": tokens, **states})["logits"]
    assert relative_error(got, logits(model, tokens[:, None])[:, 0]) < bound(Encoding.INT4_BLOCK32)


def invoke(tflite: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    interpreter = RUNTIMES["litert"](model_content=tflite)
    places = interpreter._get_full_signature_list()["step"]
    for name, value in inputs.items():
        interpreter.resize_tensor_input(places["inputs"][name], value.shape)
    interpreter.allocate_tensors()
    for name, value in inputs.items():
        interpreter.set_tensor(places["inputs"][name], value)
    interpreter.invoke()
    return {name: interpreter.get_tensor(index) for name, index in places["outputs"].items()}


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_file_holds_every_weight_once(encoding: Encoding) -> None:
    spec = RecurrentSpec(3000, 96, "lstm", (128, 128), hidden=(DenseLayer(96),), tied_head=True)
    model = encoded(random_model(spec), encoding)
    assert len(lower(model).tflite) <= size_limit(model, lower(model).encodings)


def size_limit(model, encodings) -> float:
    """1.03 times the weights as they are stored, scales included, plus 64 KiB for the graph."""
    total = 0.0
    for name, weight in model.weights.items():
        scales = {Encoding.INT8: 4 * weight.shape[0], Encoding.INT4: 4 * weight.shape[0], Encoding.INT4_BLOCK32: weight.size / 16}
        total += weight.size * encodings[name].bits / 8 + scales.get(encodings[name], 0)
    return 1.03 * total + 65536
