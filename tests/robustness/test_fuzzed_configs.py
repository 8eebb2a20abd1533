"""Keras files whose config is valid JSON with a wrong value somewhere: they end in an error that helps, or in a model."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_mutations import copy_with_place

from edgelm.errors import EdgeLMError
from edgelm.model import Imported, LanguageModel
from edgelm.models import reference
from edgelm.spec import TransformerSpec
from edgelm_converters import keras as importer
from edgelm_converters.keras_source import Loaded

pytestmark = pytest.mark.slow  # importing TensorFlow alone takes four seconds

VOCAB, WIDTH = 12, 8
READ, LOADED = 100, 20
"""Mutations of each model: read and lifted beside a source that stays sound; loaded by Keras, too."""

NUMBERS = [0, -1, 1, 3, 7, 10**6, 10**30, -0.5, 1e300, float("nan")]
VALUES = [*NUMBERS, None, True, False, "", "x", "relu", "float16", [], {}, [None], [0, 0], {"a": 1}]


def models(keras: Any) -> dict[str, Any]:
    kl = keras.layers
    first = [kl.Input((None,), dtype="int32"), kl.Embedding(VOCAB, WIDTH, mask_zero=True), kl.LSTM(WIDTH, return_sequences=True)]
    recurrent = keras.Sequential([*first, kl.Dropout(0.1), kl.TimeDistributed(kl.Dense(VOCAB, activation="softmax"))])
    ids = kl.Input((None,), dtype="int32")
    x = kl.Embedding(VOCAB, WIDTH)(ids)
    x = x + kl.Embedding(9, WIDTH)(keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1)
    x = kl.LayerNormalization()(x + kl.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
    x = kl.LayerNormalization()(x + keras.Sequential([kl.Dense(13, activation="gelu"), kl.Dense(WIDTH)])(x))
    return {"recurrent": recurrent, "transformer": keras.Model(ids, kl.Dense(VOCAB)(x))}


def mutated(config: dict[str, Any], random: np.random.Generator) -> tuple[dict[str, Any], str]:
    """A config with one value replaced or left out, and what was done."""
    changed, parent, place = copy_with_place(config, random)
    choice = int(random.integers(len(VALUES) + 3))
    if choice < len(VALUES):
        parent[place[-1]] = VALUES[choice]
    else:
        del parent[place[-1]]
    return changed, f"{place} -> {VALUES[choice] if choice < len(VALUES) else 'left out'}"


@pytest.fixture(scope="module", params=["recurrent", "transformer"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, dict[str, bytes]]:
    """A model as it is read from its file, and the members of that file."""
    path = tmp_path_factory.mktemp("fuzzed") / "good.keras"
    models(pytest.importorskip("keras"))[request.param].save(path)
    model = importer.read(path).model
    assert isinstance(model, LanguageModel)
    with zipfile.ZipFile(path) as archive:
        return model, {name: archive.read(name) for name in archive.namelist()}


def survives(path: Path, members: dict[str, bytes], random: np.random.Generator) -> Imported | None:
    config, change = mutated(json.loads(members["config.json"]), random)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, content)
    try:
        return importer.read(path)
    except EdgeLMError as error:
        assert error.what
    except Exception as error:
        pytest.fail(f"{change}: {type(error).__name__}: {error}")
    return None


def test_a_wrong_value_never_escapes_the_lift(
    written: tuple[LanguageModel, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, members = written
    time = model.spec.max_positions if isinstance(model.spec, TransformerSpec) else None
    sound = Loaded(lambda ids: [reference.logits(model, ids)], (None, time), "int32", "keras")
    monkeypatch.setattr(importer, "load", lambda *arguments, **options: sound)
    random = np.random.default_rng(21)
    found = [survives(tmp_path / "m.keras", members, random) for _ in range(READ)]
    assert 0 < sum(imported is not None for imported in found) < READ, "some changes matter, some do not"


def test_a_wrong_value_never_escapes_keras(written: tuple[LanguageModel, dict[str, bytes]], tmp_path: Path) -> None:
    random = np.random.default_rng(22)
    for _ in range(LOADED):
        survives(tmp_path / "m.keras", written[1], random)
