"""Decoder-only Keras transformers: what is lifted computes the same, what is not causal is refused."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_decoders import (
    ATTEND,
    FEED_FORWARD,
    LAYER_NORM,
    LONGEST,
    WIDTH,
    Part,
    attend,
    attend_grouped,
    attend_with_band,
    attend_with_computed_mask,
    attend_with_constant,
    cooled,
    decoder,
    distributed,
    feed_forward,
    feed_forward_convolution,
    feed_forward_gated,
    feed_forward_nested,
    feed_forward_tanh_gelu,
    last_softmax,
    layer_norm,
    learned_by_constant_range,
    learned_by_range,
    no_positions,
    post,
    pre,
    pre_swapped,
    rms_norm,
    scaled_sum,
    score,
    sinusoidal_constant,
    sliced_constant,
)
from keras_lifts import MAX_DIFFERENCE, TIME, VOCAB, difference, lifted, randomise, read

from edgelm.errors import UnsupportedModelError
from edgelm.model import LanguageModel
from edgelm.spec import TransformerSpec, weight_shapes
from edgelm_converters.keras_lift import lift
from edgelm_converters.lift import NotLiftable

pytestmark = pytest.mark.slow  # importing TensorFlow alone takes four seconds


@pytest.fixture(scope="session")
def frameworks() -> dict[str, Any]:
    keras2, keras3 = pytest.importorskip("tf_keras"), pytest.importorskip("keras")
    return {"tf_keras": keras2, "keras": keras3}


BOTH = {
    "pre": decoder(layers=2),
    "pre, swapped operands": decoder(block=pre_swapped),
    "pre, no final norm": decoder(final=False),
    "post": decoder(block=post, final=False, layers=2),
    "scaled sum": decoder(positions=scaled_sum),
    "post, final norm": decoder(block=post),
    "post, embedding norm": decoder(block=post, final=False, first=True),
    "pre, embedding norm": decoder(first=True),
    "no positions": decoder(positions=no_positions),
    "sinusoidal": decoder(positions=sinusoidal_constant, length=TIME),
    "no biases": decoder(attention=attend(use_bias=False), feed=feed_forward(use_bias=False)),
    "norms without bias and scale": decoder(norm=layer_norm(center=False), final=False),
    "gelu": decoder(feed=feed_forward("gelu")),
    "gelu tanh": decoder(feed=feed_forward_tanh_gelu),
    "hard sigmoid": decoder(feed=feed_forward("hard_sigmoid")),
    "nested feed-forward": decoder(feed=feed_forward_nested),
    "convolutions of size 1": decoder(feed=feed_forward_convolution),
    "gated": decoder(feed=feed_forward_gated),
    "one head": decoder(attention=attend(1, 8)),
    "computed mask": decoder(attention=attend_with_computed_mask),
    "constant mask": decoder(attention=attend_with_constant, length=TIME),
    "last, softmax": decoder(head=last_softmax),
    "distributed, softmax": decoder(head=distributed),
    "temperature": decoder(head=cooled),
}
KERAS3 = {
    "grouped queries": decoder(attention=attend_grouped, positions=no_positions),
    "rms norm": decoder(norm=rms_norm, attention=attend(use_bias=False), feed=feed_forward_gated),
}
KERAS2 = {
    "band mask": decoder(attention=attend_with_band),
    "constant range": decoder(positions=learned_by_constant_range, length=TIME),
    "sliced constant": decoder(positions=sliced_constant),
}
BUILDS = BOTH | KERAS2 | KERAS3
CASES = [
    *itertools.product(BOTH, ("tf_keras", "keras"), ("keras",)),
    ("rms norm", "keras", "keras"),
    *itertools.product(KERAS2, ("tf_keras",), ("keras",)),
    *itertools.product(("pre", "computed mask", "nested feed-forward", "sinusoidal"), ("tf_keras",), ("h5",)),
    ("grouped queries", "keras", "h5"),
    ("grouped queries", "keras", "keras"),
    ("post", "tf_keras", "saved-model"),
]


@pytest.mark.parametrize(("name", "library", "format"), CASES)
def test_lifted_model_computes_the_same(name: str, library: str, format: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    model = BUILDS[name](frameworks[library])
    randomise(model)
    assert difference(model, lifted(model, tmp_path, format)) < MAX_DIFFERENCE


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pre", {"layers": 2, "max_positions": LONGEST}),
        ("post, embedding norm", {"norm_position": "post", "final_norm": False, "embedding_norm": True, "max_positions": LONGEST}),
        ("no positions", {"position": "none", "max_positions": 1024}),
        ("sliced constant", {"max_positions": LONGEST}),
        ("constant range", {"max_positions": TIME}),
        ("sinusoidal", {"position": "sinusoidal", "max_positions": TIME, "embedding_scale": float(np.float32(WIDTH**0.5))}),
        ("gated", {"activation": "silu", "gated": True, "ffn_bias": False, "max_positions": LONGEST}),
        ("no biases", {"qkv_bias": False, "output_bias": False, "ffn_bias": False, "max_positions": LONGEST}),
    ],
)
def test_spec(name: str, changes: dict[str, Any], frameworks: dict[str, Any], tmp_path: Path) -> None:
    plain = {
        **{"vocab_size": VOCAB, "width": WIDTH, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 3, "ffn_size": 13},
        **{"position": "learned", "norm": "layer", "activation": "relu", "gated": False, "tied_head": False, "head_bias": True},
        **{"qkv_bias": True, "output_bias": True, "ffn_bias": True},
    }
    found = lifted(BUILDS[name](frameworks["tf_keras"]), tmp_path)
    assert found.spec == TransformerSpec(**(plain | changes))


def test_tied_head(frameworks: dict[str, Any], tmp_path: Path) -> None:
    keras = frameworks["keras"]
    table = keras.layers.ReversibleEmbedding(VOCAB, WIDTH)
    ids = keras.Input((None,), dtype="int32")
    x = learned_by_range(keras, ids, table(ids))
    x = LAYER_NORM(keras, pre(keras, pre(keras, x, LAYER_NORM, ATTEND), LAYER_NORM, FEED_FORWARD))
    model = keras.Model(ids, table(x, reverse=True))
    randomise(model)
    found = lifted(model, tmp_path)
    assert found.spec.tied_head
    assert difference(model, found) < MAX_DIFFERENCE


def test_features_as_a_second_output_are_passed_over(frameworks: dict[str, Any], tmp_path: Path) -> None:
    """As in the miniature GPT of the Keras examples."""
    keras = frameworks["keras"]
    plain = BOTH["pre"](keras)
    randomise(plain)
    model = keras.Model(plain.inputs, [plain.outputs[0], plain.layers[-1].input])
    assert difference(plain, lifted(model, tmp_path)) < MAX_DIFFERENCE


def test_quantised_weights_are_not_lifted(frameworks: dict[str, Any], tmp_path: Path) -> None:
    """Readers number the arrays of quantised layers."""
    graph = read(BOTH["no positions"](frameworks["tf_keras"]), tmp_path, "keras")
    nodes = [dataclasses.replace(node, weights={"0": np.zeros(3)}) if node.kind == "Embedding" else node for node in graph.nodes]
    with pytest.raises(NotLiftable, match="has no weight 'embeddings'"):
        lift(dataclasses.replace(graph, nodes=tuple(nodes)))


def test_own_models_come_back_as_they_were(frameworks: dict[str, Any], tmp_path: Path) -> None:
    from edgelm.models.keras_model import from_language_model

    spec = TransformerSpec(VOCAB, WIDTH, 2, 2, 1, 4, 13, LONGEST, norm="rms", qkv_bias=True)
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    found = lifted(from_language_model(LanguageModel(spec, weights)), tmp_path)
    assert found.spec == spec
    assert all(np.array_equal(found.weights[name], weight) for name, weight in weights.items())


def attend_to_everything(keras: Any, x: Any) -> Any:
    return keras.layers.MultiHeadAttention(2, 3)(x, x)


def attend_by(mask: np.ndarray) -> Part:
    def call(keras: Any, x: Any) -> Any:
        import tensorflow as tf

        return keras.layers.MultiHeadAttention(2, 3)(x, x, attention_mask=tf.constant(mask[None]))

    return call


def pooled(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(VOCAB)(keras.layers.GlobalAveragePooling1D()(x))


def classes(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(4, activation="softmax")(x[:, -1])


SQUARE = (TIME, TIME)
REFUSED = {
    "no mask": (decoder(attention=attend_to_everything), "has no causal mask"),
    "full mask": (decoder(attention=attend_by(np.ones(SQUARE, bool)), length=TIME), "lets positions see later ones"),
    "look ahead": (decoder(attention=attend_by(np.tri(TIME, k=1, dtype=bool)), length=TIME), "lets positions see later ones"),
    "pooled": (decoder(head=pooled), "pools over time"),
    "classifier": (decoder(head=classes), "11 tokens but has 4 outputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_for_good(name: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        lifted(build(frameworks["tf_keras"]), tmp_path)
    assert caught.value.allowed


def norm_inside(keras: Any, x: Any, norm: Part, body: Part) -> Any:
    """Normalises what is added, not the sum: the spec has no place for it."""
    return x + norm(keras, body(keras, x))


def attend_across(keras: Any, x: Any) -> Any:
    return keras.layers.MultiHeadAttention(2, 3)(x, keras.layers.Dense(WIDTH)(x), use_causal_mask=True)


def two_sizes(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, WIDTH)(ids)
    for heads in (1, 2):
        x = pre(keras, pre(keras, x, LAYER_NORM, attend(heads)), LAYER_NORM, FEED_FORWARD)
    return keras.Model(ids, score(keras, x))


def parallel(keras: Any) -> Any:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCAB, WIDTH)(ids)
    y = LAYER_NORM(keras, x)
    return keras.Model(ids, score(keras, keras.layers.Add()([x, ATTEND(keras, y), FEED_FORWARD(keras, y)])))


NOT_LIFTED = {
    "sliding window": (decoder(attention=attend_by(np.tri(TIME, dtype=bool) & ~np.tri(TIME, k=-3, dtype=bool)), length=TIME), "hides"),
    "norm inside": (decoder(block=norm_inside), "no chain of attention and feed-forward blocks"),
    "no residual": (decoder(block=lambda keras, x, norm, body: norm(keras, body(keras, x))), "no chain of attention"),
    "cross attention": (decoder(attention=attend_across), "cross attention"),
    "values of another size": (decoder(attention=attend(2, 3, value_dim=4)), "values of 4 columns and keys of 3"),
    "norm over time": (decoder(norm=layer_norm(axis=1), length=TIME), "is not of shape"),
    "two sizes": (two_sizes, "blocks of different heads"),
    "parallel": (parallel, "no chain of attention"),
    "selu": (decoder(feed=feed_forward("selu")), "'selu' is not among"),
    "convolution": (decoder(positions=lambda keras, ids, x: keras.layers.Conv1D(WIDTH, 2, padding="causal")(x)), "Conv1D"),
    "recurrent too": (decoder(head=lambda keras, x: score(keras, keras.layers.GRU(8, return_sequences=True)(x))), "recurrent layers and"),
}


@pytest.mark.parametrize("name", NOT_LIFTED)
def test_goes_the_opaque_way(name: str, frameworks: dict[str, Any], tmp_path: Path) -> None:
    build, message = NOT_LIFTED[name]
    with pytest.raises(NotLiftable, match=message):
        lifted(build(frameworks["tf_keras"]), tmp_path)


def test_a_damaged_config_is_not_lifted(frameworks: dict[str, Any], tmp_path: Path) -> None:
    graph = read(BOTH["pre"](frameworks["tf_keras"]), tmp_path, "keras")
    damaged = [
        dataclasses.replace(node, config={**node.config, "epsilon": "small"}) if node.kind == "LayerNormalization" else node
        for node in graph.nodes
    ]
    with pytest.raises(NotLiftable, match="damaged"):
        lift(dataclasses.replace(graph, nodes=tuple(damaged)))
