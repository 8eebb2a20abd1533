"""The Java engine on the real LiteRT library: bit-identical logits, the same suggestions and texts as Python."""

from __future__ import annotations

import itertools
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import engine_golden
from jvm_engine import JavaError, JvmEngine, encoded

from edgelm import artifact, manifest
from edgelm.artifact import Artifact
from edgelm.device import profile_report
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.recipe import load as load_recipe
from edgelm.runtime.predict import complete, suggest
from edgelm.runtime.sampling import SamplingSettings
from edgelm.runtime.session import Session, open_session
from edgelm.spec import TransformerSpec, weight_shapes
from edgelm.text.tokenizer import Tokenizer, train_char
from edgelm.tflite import metadata

pytestmark = pytest.mark.slow

GOLDEN = json.loads(engine_golden.FILE.read_text(encoding="utf-8"))
STEPS = 300
"""Beyond the second rung of chat-transformer's ladder (128, 256, 512)."""


class Model:
    """An artifact opened on both sides."""

    def __init__(self, name: str, made: Artifact, file: Path, jvm: JvmEngine) -> None:
        file.write_bytes(made.tflite)
        self.name, self.file, self.jvm = name, file, jvm
        self.session: Session[Any] = open_session(file)
        self.tokenizer = Tokenizer.from_json(made.tokenizer or "")
        assert jvm.ask("open", name, file)[:2] == [name, str(self.session.vocab_size)]

    def random_ids(self, count: int) -> list[int]:
        ids: list[int] = np.random.default_rng(3).integers(0, self.tokenizer.vocab_size, count).tolist()
        return ids


@pytest.fixture(scope="module", params=engine_golden.MODELS)
def model(request: pytest.FixtureRequest, jvm: JvmEngine, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(request.param, engine_golden.built(request.param), tmp_path_factory.mktemp("models") / "model.tflite", jvm)


def test_python_gives_the_golden(model: Model) -> None:
    golden = GOLDEN[model.name]
    for text, ids in golden["ids"].items():
        assert model.tokenizer.encode(text) == ids
    for text, words in golden["suggestions"].items():
        assert [word.text for word in suggest(model.session, model.tokenizer, text)] == words, text
    for text, continuation in golden["continuations"].items():
        greedy = complete(model.session, model.tokenizer, text, engine_golden.CONTINUED_TOKENS, SamplingSettings(temperature=0))
        assert "".join(greedy) == continuation


def test_java_gives_the_golden(model: Model) -> None:
    golden = GOLDEN[model.name]
    assert len(golden["suggestions"]) == 200 and len(golden["continuations"]) == 3
    for text, ids in golden["ids"].items():
        assert model.jvm.encode(model.name, text) == ids
    for text, words in golden["suggestions"].items():
        assert [word for word, _ in model.jvm.suggest(model.name, text)] == words, text
    for text, continuation in golden["continuations"].items():
        assert "".join(model.jvm.complete(model.name, text, engine_golden.CONTINUED_TOKENS)) == continuation


def test_logits_of_300_steps_are_bit_identical(model: Model, tmp_path: Path) -> None:
    ids = model.random_ids(STEPS)
    model.session.reset()
    expected = np.stack([model.session.step(i).copy() for i in ids])
    logits, signatures = model.jvm.logits("steps", model.name, ids, tmp_path)
    assert logits.tobytes() == expected.tobytes()
    ladder = ["step"] if model.name == "keyboard-lstm" else ["decode_128", "decode_256", "decode_512"]
    assert sorted(set(signatures), key=signatures.index) == ladder


@pytest.mark.parametrize("count", [1, 2, 8, 33, 64, 200])
def test_logits_of_a_prefill_are_bit_identical(model: Model, count: int, tmp_path: Path) -> None:
    ids = model.random_ids(count)
    model.session.reset()
    expected = model.session.prefill(ids).copy()
    logits, _ = model.jvm.logits("prefill", model.name, ids, tmp_path)
    assert logits[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(1.0, seed=1),
        SamplingSettings(0.7, top_k=40, seed=2),
        SamplingSettings(0.9, top_p=0.9, seed=2**40),
        SamplingSettings(1.3, 20, 0.8, 1.4, 4),
    ],
    ids=["all", "top-k", "top-p", "everything"],
)
def test_equal_seeds_write_equal_texts(model: Model, settings: SamplingSettings) -> None:
    for text in ("I would like", "", "Grüße"):
        expected = list(complete(model.session, model.tokenizer, text, 40, settings))
        options = (settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty, settings.seed)
        assert model.jvm.complete(model.name, text, 40, *options) == expected


def test_probabilities_of_suggestions_equal_pythons(model: Model) -> None:
    for text in ("see you", "", "Straße " * 300, "a" * 700):
        expected = [(word.text, word.probability) for word in suggest(model.session, model.tokenizer, text, 5)]
        found = model.jvm.suggest(model.name, text, 5)
        assert [word for word, _ in found] == [word for word, _ in expected]
        np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], rtol=1e-9)


def test_steps_allocate_nothing(model: Model) -> None:
    assert int(model.jvm.ask("allocated", model.name, STEPS)[0]) <= 1024  # of the measurement; one logits row alone is 16 kB


def test_profile_report_is_read_by_python(model: Model, tmp_path: Path) -> None:
    model.jvm.ask("profile", model.name, tmp_path / "report.json")
    report = profile_report.read(tmp_path / "report.json")
    assert (report.model.name, report.model.bytes) == (model.name, model.file.stat().st_size)
    assert sum(map(len, report.decode.signature_ms.values())) == 128
    assert (report.prefill is not None) == (model.name == "chat-transformer")


def test_a_full_context_reads_its_last_half_again(jvm: JvmEngine, tmp_path: Path) -> None:
    tokenizer = train_char(["abcdefghijklmnopqrstuvwxyz ."])
    spec = TransformerSpec(tokenizer.vocab_size + 3, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_size=24, max_positions=32)
    rng = np.random.default_rng(5)
    weights = {name: (2 * rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    source, recipe = LanguageModel(spec, weights, name="tiny"), load_recipe("float32")
    lowered = lower(source)
    facts = manifest.build(source, recipe, "android-arm64", lowered.tflite, lowered.encodings)
    made = Artifact(Path("tiny"), artifact.pack(lowered.tflite, facts, tokenizer.to_json()), facts, tokenizer.to_json())
    model = Model("tiny", made, tmp_path / "model.tflite", jvm)
    lengths = []
    for text, seed in itertools.product(("the quick brown fox", "x" * 100), range(5)):
        expected = list(complete(model.session, model.tokenizer, text, 90, SamplingSettings(0.8, seed=seed)))
        assert jvm.complete("tiny", text, 90, 0.8, 0, 1, 1, seed) == expected
        lengths.append(len(expected))
    assert max(lengths) > 32  # the context
    for text in ("the quick brown fox", "x" * 100):
        assert [word for word, _ in jvm.suggest("tiny", text)] == [word.text for word in suggest(model.session, tokenizer, text)]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32, 2**53 + 1, 2**63 - 1])
def test_random_numbers_are_numpys(jvm: JvmEngine, seed: int) -> None:
    expected = np.random.default_rng(seed).random(1000).tolist()
    assert [float.fromhex(number) for number in jvm.ask("uniform", seed, 1000)[0].split(",")] == expected


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return engine_golden.built("keyboard-lstm").tflite


def repacked(model: bytes, files: dict[str, bytes]) -> bytes:
    """The flatbuffer with other files behind it."""
    return metadata.attach(flatbuffer(model), files)


def flatbuffer(model: bytes) -> bytes:
    return model[: model.index(b"PK\x03\x04", len(model) - 200_000)]


def attached(model: bytes) -> dict[str, bytes]:
    return metadata.read_attached(model)


def with_manifest(model: bytes, **changes: object) -> bytes:
    files = attached(model)
    return repacked(model, files | {"manifest.json": json.dumps(json.loads(files["manifest.json"]) | changes).encode()})


def with_tokenizer(model: bytes, change: dict[str, object]) -> bytes:
    files = attached(model)
    return repacked(model, files | {"tokenizer.json": json.dumps(json.loads(files["tokenizer.json"]) | change).encode()})


def corrupted_directory(model: bytes, offset: int, value: int) -> bytes:
    """A field of the first entry of the archive's directory."""
    at = model.rindex(b"PK\x01\x02", 0, model.rindex(b"PK\x01\x02")) + offset
    return model[:at] + struct.pack("<I", value) + model[at + 4 :]


WORDPIECE = {"model": {"type": "WordPiece", "vocab": {"a": 0}}}
ANCHORED = {"normalizer": {"type": "Replace", "pattern": {"Regex": "^x"}, "content": ""}}
LARGE_ID = {"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 2**30}}}
HOSTILE = {
    "empty": (lambda model: b"", "no .tflite model"),
    "text": (lambda model: b"hello, I am no model", "no .tflite model"),
    "truncated": (lambda model: model[:-1000], "holds no edgelm manifest"),
    "flatbuffer only": (flatbuffer, "holds no edgelm manifest"),
    "weights cut": (lambda model: model[:100_000] + model[200_000:], "damaged"),
    "weights changed": (lambda model: model[:100_000] + bytes([model[100_000] ^ 1]) + model[100_001:], "checksum"),
    "bomb": (lambda model: repacked(model, attached(model) | {"tokenizer.json": b" " * (70 << 20)}), "unpacks to 73400320 bytes"),
    "bomb that lies": (lambda model: corrupted_directory(model, 24, 20), "damaged"),
    "offset": (lambda model: corrupted_directory(model, 42, 2**32 - 1), "damaged"),
    "checksum": (lambda model: corrupted_directory(model, 16, 1), "damaged"),
    "no tokenizer": (lambda model: repacked(model, {"manifest.json": attached(model)["manifest.json"]}), "holds no tokenizer"),
    "nested": (lambda model: repacked(model, {"manifest.json": b"[" * 100_000}), "nested more than 60 times"),
    "not JSON": (lambda model: repacked(model, {"manifest.json": b'{"name": NaN}'}), "damaged at byte 9"),
    "version": (lambda model: with_manifest(model, schema_version=2), "has version 2"),
    "signature": (lambda model: with_manifest(model, signatures={"forward": {}}), "no signature this app can run"),
    "word pieces": (lambda model: with_tokenizer(model, WORDPIECE), "model WordPiece is not known"),
    "normalizer": (lambda model: with_tokenizer(model, {"normalizer": {"type": "BertNormalizer"}}), "BertNormalizer"),
    "pre-tokenizer": (lambda model: with_tokenizer(model, {"pre_tokenizer": {"type": "UnicodeScripts"}}), "UnicodeScripts"),
    "pattern": (lambda model: with_tokenizer(model, ANCHORED), "^ in the pattern"),
    "large id": (lambda model: with_tokenizer(model, LARGE_ID), "no row of an embedding"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_clear_error(jvm: JvmEngine, sound: bytes, name: str, tmp_path: Path) -> None:
    break_it, message = HOSTILE[name]
    file = tmp_path / "model.tflite"
    file.write_bytes(break_it(sound))
    commands = ("open", "broken", file) if name == "signature" else ("inspect", file)
    with pytest.raises(JavaError, match=re.escape(message)):
        jvm.ask(*commands)


def test_random_damage_is_refused_or_harmless(jvm: JvmEngine, sound: bytes, tmp_path: Path) -> None:
    """Whatever bytes of the archive change, the answer is a name and a kind, or an EdgeLmException."""
    rng = np.random.default_rng(0)
    start = len(flatbuffer(sound))
    file = tmp_path / "model.tflite"
    refused = 0
    for _ in range(60):
        damaged = bytearray(sound)
        for at in rng.integers(start, len(sound), 3):
            damaged[at] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            jvm.ask("inspect", file)
        except JavaError:
            refused += 1
    assert refused > 30


def test_a_manifest_that_lies_about_shapes_is_refused(jvm: JvmEngine, sound: bytes, tmp_path: Path) -> None:
    facts = json.loads(attached(sound)["manifest.json"])
    facts["signatures"]["step"]["inputs"]["h_0"]["shape"] = [1, 51200]
    (tmp_path / "model.tflite").write_bytes(with_manifest(sound, signatures=facts["signatures"]))
    with pytest.raises(JavaError, match="manifest and model disagree: tensor h_0"):
        jvm.ask("open", "lying", tmp_path / "model.tflite")


OUT_OF_RANGE = {"temperature": (-1, 0, 1, 1, 0), "topK": (1, -1, 1, 1, 0), "topP": (1, 0, 0, 1, 0), "repetitionPenalty": (1, 0, 1, 0, 0)}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused(model: Model, name: str) -> None:
    settings = OUT_OF_RANGE[name]
    with pytest.raises(JavaError, match=name):
        model.jvm.ask("complete", model.name, encoded("a"), 3, *settings)
