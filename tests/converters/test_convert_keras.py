"""The whole path from Keras: files as Keras writes them go in, the artifact computes what Keras itself computes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import LINES

import edgelm
from edgelm import pipeline
from edgelm.artifact import MANIFEST, MODEL, TOKENIZER
from edgelm.errors import UnsupportedModelError
from edgelm.report import Check, Report
from edgelm.runtime.session import open_session
from edgelm.text.tokenizer import Tokenizer, train_word_level

pytestmark = pytest.mark.slow  # importing TensorFlow alone takes four seconds

WIDTH, TIME = 24, 16
FORMATS = {"keras-3.keras": "keras", "keras-2.h5": "tf_keras", "saved-model": "tf_keras"}
"""What a user has -> the framework that wrote it."""

# float32 sums in another order: the logits of these models are below 10, and their sums have up to 50 terms
MAX_DIFFERENCE = 1e-4


def recurrent(kind: str) -> Any:
    def build(keras: Any, vocab: int) -> Any:
        kl = keras.layers
        layers = [kl.Input((None,), dtype="int32"), kl.Embedding(vocab, WIDTH), getattr(kl, kind)(32, return_sequences=True)]
        return keras.Sequential([*layers, kl.Dense(vocab)])

    return build


def transformer(keras: Any, vocab: int) -> Any:
    """One block: the decoder of Keras' own text generation examples, with learned positions."""
    import tensorflow as tf

    kl = keras.layers
    ids = keras.Input((None,), dtype="int32")
    positions = tf.range(tf.shape(ids)[1]) if keras.__name__ == "tf_keras" else keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1
    x = kl.Embedding(vocab, WIDTH)(ids) + kl.Embedding(TIME, WIDTH)(positions)
    x = kl.LayerNormalization()(x + kl.MultiHeadAttention(2, WIDTH // 2)(x, x, use_causal_mask=True))
    x = kl.LayerNormalization()(x + kl.Dense(WIDTH)(kl.Dense(2 * WIDTH, activation="relu")(x)))
    return keras.Model(ids, kl.Dense(vocab)(x))


def convolution(keras: Any, vocab: int) -> Any:
    """A language model of no family that edgelm rebuilds."""
    kl = keras.layers
    layers = [kl.Input((None,), dtype="int32"), kl.Embedding(vocab, WIDTH), kl.Conv1D(32, 3, padding="causal", activation="relu")]
    return keras.Sequential([*layers, kl.Dense(vocab)])


BUILDS = {"lstm": recurrent("LSTM"), "gru": recurrent("GRU"), "transformer": transformer, "convolution": convolution}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_word_level(LINES, vocab_size=64)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model of a framework, and its files: format -> path."""

    model: Any
    files: dict[str, Path]


class Shelf:
    """Trains and saves each model when it is first asked for."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._held: dict[tuple[str, str], Trained] = {}

    def get(self, name: str, file_format: str) -> tuple[Any, Path]:
        """The model in its framework, and its file with a tokenizer.json beside it."""
        key = name, FORMATS[file_format]
        if key not in self._held:
            self._held[key] = self._trained(*key)
        return self._held[key].model, self._held[key].files[file_format]

    def _trained(self, name: str, framework: str) -> Trained:
        keras = pytest.importorskip(framework)
        keras.utils.set_random_seed(0)
        model = BUILDS[name](keras, self._tokenizer.vocab_size)
        rows = [np.resize(ids, TIME + 1) for ids in self._tokenizer.encode_batch(LINES)]
        text = np.array(rows, np.int32)  # (lines, time + 1)
        model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(text[:, :-1], text[:, 1:], batch_size=8, epochs=12, verbose=0)
        folder = self._folder / f"{framework}-{name}"
        folder.mkdir()
        files = {each: folder / (name + Path(each).suffix) for each, writer in FORMATS.items() if writer == framework}
        for file_format, path in files.items():
            model.save(str(path), **({"save_format": "tf"} if file_format == "saved-model" else {}))
            place = path if path.is_dir() else folder
            (place / TOKENIZER).write_text(self._tokenizer.to_json(), encoding="utf-8")
        return Trained(model, files)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("trained"), tokenizer)


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(-1, keepdims=True)


def difference(model: Any, artifact: Path, vocab: int) -> float:
    """Largest |difference| of centred logits between the framework and the artifact, on random tokens."""
    ids = np.random.default_rng(1).integers(0, vocab, (1, TIME), dtype=np.int32)
    wanted = np.asarray(model(ids))[0]  # (time, vocab)
    assert np.ptp(wanted) > 2, "a model that has learnt nothing gives the logits of any other"
    given = np.stack([row.copy() for row in open_session(artifact / MODEL).stream(ids[0].tolist())])
    return float(np.abs(centred(wanted) - centred(given)).max())


def convert(path: Path, recipe: str, output: Path) -> tuple[Report, dict[str, Any]]:
    """The report and the manifest."""
    conversion = pipeline.convert(pipeline.Request(str(path), recipe=recipe, target="host", output=output))
    return conversion.report, json.loads((conversion.folder / MANIFEST).read_text())


def parity_checks(report: Report) -> list[Check]:
    """Those that have a limit: the mean KL always, the largest difference where nothing is rounded."""
    found = [check for check in report.checks if ": mean KL" in check.name or ": largest logit difference" in check.name]
    return [check for check in found if check.passed is not None]


@pytest.mark.parametrize(("name", "file_format"), itertools.product(("lstm", "gru", "transformer"), FORMATS))
def test_the_artifact_computes_what_keras_computes(name: str, file_format: str, shelf: Shelf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, path = shelf.get(name, file_format)
    report, manifest = convert(path, "float32", tmp_path / "exact")
    assert manifest["source"]["way"] == "lifted", manifest["source"]["why"]
    assert manifest["source"]["framework"].startswith(FORMATS[file_format] if path.is_file() else "tensorflow")
    assert manifest["spec"]["family"] == ("transformer" if name == "transformer" else "recurrent")
    assert difference(model, tmp_path / "exact", tokenizer.vocab_size) <= MAX_DIFFERENCE
    assert parity_checks(report)
    assert all(check.passed for check in parity_checks(report))


@pytest.mark.parametrize(("name", "file_format"), [("lstm", "keras-3.keras"), ("gru", "saved-model"), ("transformer", "keras-2.h5")])
def test_int8_is_smaller_close_and_predicts(name: str, file_format: str, shelf: Shelf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, path = shelf.get(name, file_format)
    report, manifest = convert(path, "int8", tmp_path / "small")
    assert manifest["source"]["way"] == "lifted"
    assert "int8" in manifest["encodings"].values()
    assert all(check.passed for check in parity_checks(report))
    # it was rounded, and a step of int8 is 1/127 of a row's largest weight
    assert MAX_DIFFERENCE < difference(model, tmp_path / "small", tokenizer.vocab_size) < 0.3
    words = [word.text for word in edgelm.suggest(edgelm.session(tmp_path / "small"), "see you", n=3)]
    assert len(words) == 3
    assert {"there", "at"} & set(words)  # the two words that follow in the text it was trained on


def test_a_model_of_no_known_family_is_converted_as_it_is(shelf: Shelf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, path = shelf.get("convolution", "keras-3.keras")
    report, manifest = convert(path, "int8", tmp_path / "out")
    assert manifest["source"]["way"] == "graph"
    assert any("--recipe float16 " in command for command in report.next_commands), "such graphs take no 4 bits"
    reason = "no recurrent layer and no attention"
    assert reason in dict(report.facts)["way"]
    assert parity_checks(report)
    assert all(check.passed for check in parity_checks(report))
    assert 0 < difference(model, tmp_path / "out", tokenizer.vocab_size) < 0.3  # as above
    assert len(edgelm.suggest(edgelm.session(tmp_path / "out"), "see you", n=3)) == 3
    before = (tmp_path / "out" / MODEL).read_bytes()
    with pytest.raises(UnsupportedModelError, match=f"recipe int4 needs.*convolution was not recognised: {reason}") as caught:
        convert(path, "int4", tmp_path / "out")
    assert "--recipe int8" in caught.value.fix
    assert (tmp_path / "out" / MODEL).read_bytes() == before
