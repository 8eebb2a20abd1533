"""The numpy reference against Keras, PyTorch and golden values, and its incremental form against the full pass."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import babyllama
import numpy as np
import pytest

from edgelm.errors import ContextFullError, UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.models.activations import activate
from edgelm.models.reference import ReferenceSession, logits, sinusoidal_table
from edgelm.spec import DenseLayer, Encoding, ModelSpec, RecurrentSpec, TransformerSpec, weight_shapes

VOCAB = 20
IDS = np.random.default_rng(1).integers(0, VOCAB, (3, 14))

RECURRENT = {
    "rnn": RecurrentSpec(VOCAB, 8, "rnn", (6,), activation="relu"),
    "gru": RecurrentSpec(VOCAB, 8, "gru", (6, 7)),
    "gru-reset-before": RecurrentSpec(VOCAB, 8, "gru", (6, 7), reset_after=False, recurrent_activation="hard_sigmoid"),
    "lstm": RecurrentSpec(VOCAB, 6, "lstm", (7, 6), tied_head=True),
    "cifg": RecurrentSpec(VOCAB, 8, "cifg", (6,), embedding_projection=5, hidden=(DenseLayer(4, "gelu"),)),
    "gate-embedding": RecurrentSpec(VOCAB, 24, "lstm", (6,), gate_embedding=True),
}
PHI = TransformerSpec(
    VOCAB, 16, 2, 4, 4, 4, 13, 14, rotary_dim=2, norm="layer", activation="gelu_tanh", gated=False, parallel_residual=True,
    qkv_bias=True, output_bias=True, ffn_bias=True, tied_head=False, head_bias=True,
)  # fmt: skip
TRANSFORMERS = {
    "phi": PHI,
    "llama": TransformerSpec(VOCAB, 16, 2, 4, 2, 4, 13, 14),
    "gpt2": TransformerSpec(
        VOCAB,
        16,
        2,
        4,
        4,
        4,
        13,
        14,
        position="learned",
        norm="layer",
        activation="gelu_tanh",
        gated=False,
        qkv_bias=True,
        output_bias=True,
    ),
    "qk-norm": TransformerSpec(VOCAB, 16, 2, 4, 2, 6, 13, 14, rotary_dim=4, qk_norm=True, attention_scale=0.3, embedding_norm=True),
    "post-norm": TransformerSpec(VOCAB, 16, 2, 4, 4, 4, 13, 14, position="sinusoidal", norm_position="post", embedding_scale=4.0),
}


def random_model(spec: ModelSpec, seed: int = 0) -> LanguageModel:
    rng = np.random.default_rng(seed)
    return LanguageModel(spec, {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()})


@pytest.mark.parametrize("spec", [*RECURRENT.values(), *TRANSFORMERS.values()], ids=[*RECURRENT, *TRANSFORMERS])
def test_steps_and_chunks_equal_the_full_pass(spec: ModelSpec) -> None:
    model = random_model(spec)
    whole = logits(model, IDS)
    assert whole.shape == (*IDS.shape, VOCAB)
    assert whole.dtype == np.float32
    session = ReferenceSession(model, batch=3)
    stepped = np.stack([session.step(IDS[:, time]) for time in range(IDS.shape[1])], axis=1)
    np.testing.assert_allclose(stepped, whole, atol=1e-5)
    session.reset()
    chunked = np.concatenate([session.extend(chunk) for chunk in np.split(IDS, [5, 6], axis=1)], axis=1)
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


@pytest.mark.parametrize("spec", [*RECURRENT.values(), *TRANSFORMERS.values()], ids=[*RECURRENT, *TRANSFORMERS])
def test_float64_refines_float32(spec: ModelSpec) -> None:
    model = random_model(spec)
    fine = logits(model, IDS, dtype=np.float64)
    assert fine.dtype == np.float64
    np.testing.assert_allclose(logits(model, IDS), fine, atol=1e-5)


def test_parallel_branches_do_not_see_each_other() -> None:
    """Attention and feed-forward layer together add to the scores what each of them adds alone."""
    model = random_model(replace(PHI, layers=1, final_norm=False))

    def without(*silent: str) -> np.ndarray:
        zeros = {name: np.zeros_like(weight) for name, weight in model.weights.items() if name.split(".")[-2] in silent}
        return logits(model.replace(weights=model.weights | zeros), IDS)

    neither = without("o", "down")
    attention, feed_forward = without("down") - neither, without("o") - neither
    np.testing.assert_allclose(without() - neither, attention + feed_forward, atol=1e-5)
    assert min(np.abs(attention).max(), np.abs(feed_forward).max()) > 0.1


def test_parallel_residuals_read_the_stream_through_norms() -> None:
    with pytest.raises(UnsupportedModelError, match="parallel_residual with norm_position 'post'"):
        replace(PHI, norm_position="post")


def test_no_token_sees_later_ones() -> None:
    changed = IDS.copy()
    changed[:, 9] = (changed[:, 9] + 1) % VOCAB
    for spec in (RECURRENT["gru"], TRANSFORMERS["gpt2"]):
        before, after = logits(random_model(spec), IDS), logits(random_model(spec), changed)
        np.testing.assert_allclose(before[:, :9], after[:, :9], atol=1e-6)
        assert np.abs(before[:, 9:] - after[:, 9:]).max() > 0.01


def test_float16_weights_are_taken_and_encodings_ignored() -> None:
    model = random_model(RECURRENT["lstm"])
    halved = model.replace(
        weights={name: weight.astype(np.float16) for name, weight in model.weights.items()},
        encodings=dict.fromkeys(model.weights, Encoding.INT4),
    )
    widened = model.replace(weights={name: weight.astype(np.float16).astype(np.float32) for name, weight in model.weights.items()})
    np.testing.assert_array_equal(logits(halved, IDS), logits(widened, IDS))


def test_a_transformer_ends_at_its_last_position() -> None:
    session = ReferenceSession(random_model(TRANSFORMERS["llama"]), batch=3)
    session.extend(IDS)
    with pytest.raises(ContextFullError, match="14 positions, 15"):
        session.step(IDS[:, 0])


def test_activations() -> None:
    x = np.linspace(-7, 7, 2001)
    exact = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])
    np.testing.assert_allclose(activate("gelu", x), exact, atol=1e-11)
    np.testing.assert_allclose(activate("gelu_tanh", x), exact, atol=1e-3)  # how good that approximation is
    np.testing.assert_allclose(activate("sigmoid", x), 1 / (1 + np.exp(-x)), atol=1e-12)
    np.testing.assert_allclose(activate("silu", x), x / (1 + np.exp(-x)), atol=1e-12)
    np.testing.assert_allclose(activate("hard_sigmoid", np.array([-3.0, -1.0, 0.0, 1.0, 3.0])), [0, 0.3, 0.5, 0.7, 1])


def test_the_sinusoidal_table_has_sines_in_even_columns() -> None:
    table = sinusoidal_table(TRANSFORMERS["post-norm"], np.array([0, 3]))
    np.testing.assert_allclose(table[0], [0, 1] * 8)
    np.testing.assert_allclose(table[1, 2:4], [math.sin(3 / 10_000 ** (2 / 16)), math.cos(3 / 10_000 ** (2 / 16))])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn", "gru", "gru-reset-before", "lstm"])
def test_recurrent_layers_equal_keras(name: str) -> None:
    import tf_keras

    spec = RECURRENT[name]
    model = random_model(spec)
    x = model.weights["embedding.weight"][IDS]
    for index, units in enumerate(spec.units):
        layer = {
            "rnn": lambda u: tf_keras.layers.SimpleRNN(u, activation=spec.activation, return_sequences=True),
            "gru": lambda u: tf_keras.layers.GRU(
                u, recurrent_activation=spec.recurrent_activation, reset_after=spec.reset_after, return_sequences=True
            ),
            "lstm": lambda u: tf_keras.layers.LSTM(u, return_sequences=True),
        }[spec.cell](units)
        layer.build(x.shape)
        at = f"layers.{index}"
        biases = [model.weights[f"{at}.{kind}.bias"] for kind in ("input", "recurrent") if f"{at}.{kind}.bias" in model.weights]
        bias = np.stack(biases) if len(biases) > 1 else biases[0]
        layer.set_weights([model.weights[f"{at}.input.weight"].T, model.weights[f"{at}.recurrent.weight"].T, bias])
        x = layer(x).numpy()
    table = model.weights["embedding.weight" if spec.tied_head else "head.weight"]
    np.testing.assert_allclose(logits(model, IDS), x @ table.T + model.weights["head.bias"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_layer_norm_blocks_equal_torch(norm_position: str) -> None:
    torch = pytest.importorskip("torch")
    spec = TransformerSpec(
        VOCAB, 16, 2, 4, 4, 4, 13, 14, position="learned", norm="layer", norm_position=norm_position, activation="gelu", gated=False,
        qkv_bias=True, output_bias=True, ffn_bias=True, final_norm=False,
    )  # fmt: skip
    model = random_model(spec)
    tensors = {name: torch.from_numpy(weight) for name, weight in model.weights.items()}
    x = tensors["embedding.weight"][torch.from_numpy(IDS)] + tensors["positions.weight"]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(IDS.shape[1])
    for index in range(spec.layers):
        block = torch.nn.TransformerEncoderLayer(
            16, 4, 13, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_position == "pre"
        )
        at = {name.removeprefix(f"layers.{index}."): tensor for name, tensor in tensors.items() if name.startswith(f"layers.{index}.")}
        names = {"o": "self_attn.out_proj", "up": "linear1", "down": "linear2", "attention_norm": "norm1", "ffn_norm": "norm2"}
        state = {f"{theirs}.{kind}": at[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}
        state |= {f"self_attn.in_proj_{kind}": torch.cat([at[f"{name}.{kind}"] for name in "qkv"]) for kind in ("weight", "bias")}
        block.load_state_dict(state)
        with torch.no_grad():
            x = block(x, src_mask=mask, is_causal=True)
    np.testing.assert_allclose(logits(model, IDS), (x @ tensors["embedding.weight"].T).numpy(), atol=1e-5)


@pytest.mark.data
def test_a_published_llama_gives_its_golden_logits(data_folder: Path) -> None:
    folder = data_folder / "models" / "babyllama_tok105"
    golden = np.load(folder / "golden.npz")
    got = logits(babyllama.load(folder), golden["ids"][None], dtype=np.float64)[0]
    np.testing.assert_allclose(got, golden["logits"], atol=5e-6)  # they are stored as float32 and reach 20
