"""Bad Keras files through the command line: one error that names cause and next step, and the artifact that was there stays."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import LINES, write_model

from edgelm import pipeline
from edgelm.text.tokenizer import train_word_level

pytestmark = pytest.mark.slow  # importing both versions of Keras alone takes ten seconds

VOCAB, WIDTH, UNITS = 40, 8, 12
BIT_FLIPS = 3

STDERR = re.compile(r"reading the model\nerror: ([^\n]+)(\n  allowed: [^\n]+)?(\n  next: [^\n]+)?\n")
"""All that stderr may hold: the stage that was reached, and one error."""


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The folder of the bad files, and an artifact with its bytes."""

    folder: Path
    artifact: Path
    before: dict[str, bytes]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def language_model(keras: Any, *middle: Any) -> Any:
    kl = keras.layers
    reader = kl.LSTM(UNITS, return_sequences=True)
    return keras.Sequential([kl.Input((None,), dtype="int32"), kl.Embedding(VOCAB, WIDTH), *(middle or (reader,)), kl.Dense(VOCAB)])


def write_keras_3(folder: Path) -> None:
    keras = pytest.importorskip("keras")
    kl = keras.layers
    model = language_model(keras)
    model.save(folder / "good.keras")
    model.save_weights(folder / "only.weights.h5")
    language_model(keras, kl.Bidirectional(kl.LSTM(UNITS, return_sequences=True))).save(folder / "bidirectional.keras")
    pixels = [kl.Input((28, 28, 1)), kl.Conv2D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(10, activation="softmax")]
    keras.Sequential(pixels).save(folder / "digits.keras")
    review = [kl.Input((None,), dtype="int32"), kl.Embedding(VOCAB, WIDTH), kl.LSTM(UNITS), kl.Dense(1, activation="sigmoid")]
    keras.Sequential(review).save(folder / "reviews.keras")


def write_keras_2(folder: Path) -> None:
    keras = pytest.importorskip("tf_keras")
    kl = keras.layers
    lstm, twice = kl.LSTM(UNITS, return_sequences=True), kl.Lambda(lambda x: 2 * x, name="twice")
    language_model(keras, lstm, twice).save(folder / "lambda.h5")
    language_model(keras).save_weights(folder / "old-weights.h5")


def write_damaged(folder: Path) -> None:
    good = (folder / "good.keras").read_bytes()
    (folder / "truncated.keras").write_bytes(good[: len(good) * 2 // 3])
    random = np.random.default_rng(11)
    weights = good.index(b"\x89HDF")
    for number in range(BIT_FLIPS):
        damaged = bytearray(good)
        # inside of the weights, which the archive has a checksum of; elsewhere a flipped bit may change nothing (a time stamp)
        damaged[int(random.integers(weights, weights + 4000))] ^= 1 << int(random.integers(8))
        (folder / f"flipped-{number}.keras").write_bytes(damaged)
    (folder / "picture.keras").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(200))
    (folder / "notes.h5").write_text("Dear diary, the model is on the other disk.\n")
    words = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(2 * VOCAB))
    (folder / "big.json").write_text(train_word_level([words], vocab_size=2 * VOCAB).to_json())
    assert train_word_level(LINES, vocab_size=VOCAB).vocab_size <= VOCAB


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("bad")
    write_keras_3(folder)
    write_keras_2(folder)
    write_damaged(folder)
    write_model(folder / "tiny")
    artifact = pipeline.convert(pipeline.Request(str(folder / "tiny"), output=folder / "out", target="host")).folder
    return Shelf(folder, artifact, contents(artifact))


DAMAGED = r"is damaged or incomplete"
CASES = [
    ("truncated.keras", (), DAMAGED, "copy or save the model again"),
    *((f"flipped-{number}.keras", (), DAMAGED, "copy or save the model again") for number in range(BIT_FLIPS)),
    ("picture.keras", (), r"picture\.keras is no \.keras model: it is a PNG picture", r"model\.save"),
    ("notes.h5", (), r"notes\.h5 is no Keras \.h5 model: it is of no kind edgelm knows", r"model\.save"),
    ("lambda.h5", (), r"layer 'twice' is a Lambda: it runs code", "--trust"),
    ("only.weights.h5", (), "holds weights only", r"model\.save"),
    ("old-weights.h5", (), "holds weights only", r"model\.save"),
    ("digits.keras", (), "no language model: no Embedding", ""),
    ("reviews.keras", (), f"vocabulary of {VOCAB} tokens but has 1 output: a regression or a yes/no classifier", "last Dense layer"),
    ("bidirectional.keras", (), r"layer 'bidirectional\w*' is Bidirectional: .*not causal", "without Bidirectional"),
    ("good.keras", ("--tokenizer", "big.json"), "tokenizer", ""),
]


@pytest.mark.parametrize(("file", "options", "cause", "fix"), CASES, ids=[" ".join((case[0], *case[1])) for case in CASES])
def test_one_error_that_helps_and_the_old_artifact_stays(file: str, options: tuple[str, ...], cause: str, fix: str, shelf: Shelf) -> None:
    command = [sys.executable, "-m", "edgelm.cli.main", "convert", file, *options, "-o", str(shelf.artifact)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=shelf.folder)
    assert result.returncode == 1, result.stdout + result.stderr
    said = STDERR.fullmatch(result.stderr)
    assert said, result.stderr
    assert re.search(cause, said[1])
    assert re.search(fix, said[3] or "")
    assert contents(shelf.artifact) == shelf.before
    assert sorted(path.name for path in shelf.folder.glob("out*")) == ["out"]  # nothing half-written beside it
