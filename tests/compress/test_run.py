"""Steps one after another: records, the cache, an interrupted run, and what users get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trained_models import DOCUMENTS, RETRAIN, VOCAB, data_of, trained

from edgelm.compress import plain, run
from edgelm.compress.corpus_data import LEAST_TOKENS, require_fitting
from edgelm.compress.records import StepRecord, costs
from edgelm.compress.step_cache import model_sha256, place_of
from edgelm.compress.step_data import StepData
from edgelm.compress.stored import effective, macs_per_token, measure, stored
from edgelm.errors import CorpusError, RecipeError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import STEPS, Cluster, Finetune, Prune, Quantize, Step
from edgelm.recipe_training import Training
from edgelm.report import Table
from edgelm.spec import Encoding, RecurrentSpec, weight_shapes
from edgelm.text.tokenizer import train_word_level

SHORT = Training(epochs=0.2, batch_size=8, sequence_length=32, precision="float32", warmup_steps=2)
INT8 = Quantize(Encoding.INT8, Encoding.INT8, Encoding.INT8)
INT4 = Quantize(Encoding.INT4, Encoding.INT4, Encoding.INT4)


def make_model(encoding: Encoding | None = None) -> LanguageModel:
    spec = RecurrentSpec(vocab_size=VOCAB, embedding_size=8, cell="lstm", units=(8,), tied_head=True)
    rng = np.random.default_rng(0)
    weights = {name: (rng.standard_normal(shape) / 3).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    encodings = {name: encoding for name, weight in weights.items() if weight.ndim == 2} if encoding else {}
    return LanguageModel(spec, weights, encodings=encodings)


def test_every_technique_has_a_module() -> None:
    assert run.MODULES.keys() == STEPS.keys()


# --- figures ------------------------------------------------------------------------------------------------------------------------


def test_figures_of_a_model_by_hand() -> None:
    model = make_model(Encoding.INT8)
    figures = measure(model)
    # embedding 48 x 8, input and recurrent 32 x 8 each, biases 32 and 48
    assert figures.parameters == 48 * 8 + 2 * 32 * 8 + 32 + 48
    assert figures.macs_per_token == macs_per_token(model) == 2 * 32 * 8 + 48 * 8
    assert figures.bytes == 48 * (8 + 4) + 2 * 32 * (8 + 4) + 4 * (32 + 48)
    assert figures.compressed_bytes > 0.7 * figures.bytes, "noise does not deflate"
    assert figures.distinct_values <= 255
    assert figures.perplexity is None
    nothing = model.replace(weights={name: weight * 0 for name, weight in model.weights.items()})
    assert measure(nothing).compressed_bytes < 0.1 * figures.bytes
    zero = model.replace(weights={name: weight * (weight > 0) for name, weight in model.weights.items()})
    assert measure(zero).nonzeros == sum(int(np.count_nonzero(stored(zero, name).data)) for name in zero.encodings) + sum(
        int(np.count_nonzero(weight)) for weight in zero.weights.values() if weight.ndim == 1
    )


def test_fixed_scales_are_stored_exactly_and_zeros_stay() -> None:
    model = make_model(Encoding.INT4)
    name = "layers.0.recurrent.weight"
    integers = np.random.default_rng(1).integers(-3, 4, (32, 8))
    scales = np.full((32, 1), 0.125, np.float32)
    held = model.replace(weights={**model.weights, name: (integers * 0.125).astype(np.float32)}, scales={name: scales})
    np.testing.assert_array_equal(effective(held).weights[name], held.weights[name])
    # Without the scales a row is stretched to +-7, and 3 / 7 of its largest is no multiple any more.
    assert np.abs(effective(held.replace(scales={})).weights[name] - held.weights[name]).max() > 0


def test_an_encoding_that_does_not_fit_is_counted_as_the_lowering_stores_it() -> None:
    assert stored(make_model(Encoding.INT4_BLOCK32), "embedding.weight").encoding is Encoding.INT8, "8 columns are no block of 32"
    assert stored(make_model(Encoding.INT4), "embedding.weight").encoding is Encoding.INT4


# --- records and cache --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finetunes(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Plain training without Keras: adds the learning rate to every weight; the list of calls."""
    calls: list[Step] = []

    def apply(model: LanguageModel, step: Finetune, data: StepData) -> LanguageModel:
        calls.append(step)
        assert data.folder is not None
        (data.folder / "checkpoint").parent.mkdir(parents=True, exist_ok=True)
        (data.folder / "checkpoint").write_text("half of it")
        shift = np.float32(step.train.learning_rate)
        return model.replace(weights={name: weight + shift for name, weight in model.weights.items()}, encodings={}, scales={})

    monkeypatch.setattr(plain, "apply", apply)
    monkeypatch.setattr(run, "_perplexity", lambda model, data: float(np.abs(model.float32("embedding.weight")).sum()))
    return calls


def finetune(learning_rate: float) -> Finetune:
    return Finetune(Training(epochs=1, learning_rate=learning_rate))


def test_a_changed_last_step_does_not_repeat_the_first(finetunes: list[Step], tmp_path: Path) -> None:
    model = make_model()
    data = data_of(model)
    first = run.run(model, [finetune(0.1), finetune(0.2), INT8], data, tmp_path)
    assert len(finetunes) == 2
    assert [record.cached for record in first.records] == [False, False, False]
    second = run.run(model, [finetune(0.1), finetune(0.3), INT8], data, tmp_path)
    assert finetunes[2:] == [finetune(0.3)]
    assert [record.cached for record in second.records] == [True, False, False]
    again = run.run(model, [finetune(0.1), finetune(0.2), INT8], data, tmp_path)
    assert len(finetunes) == 3
    assert model_sha256(again.model) == model_sha256(first.model)
    assert [(r.before, r.after) for r in again.records] == [(r.before, r.after) for r in first.records]
    run.run(model, [finetune(0.1), finetune(0.2), INT8], data, tmp_path, fresh=True)
    assert len(finetunes) == 5


def test_other_weights_text_or_encodings_are_another_step(finetunes: list[Step], tmp_path: Path) -> None:
    model, step = make_model(), finetune(0.1)
    data = data_of(model)
    other_weights = model.replace(weights={**model.weights, "head.bias": model.weights["head.bias"] + 1})
    other_text = StepData(DOCUMENTS[1:], data.valid, model)
    moved_end = StepData([np.concatenate(DOCUMENTS[:2]), *DOCUMENTS[2:]], data.valid, model)
    places = [
        place_of(tmp_path, model, step, data),
        place_of(tmp_path, other_weights, step, data),
        place_of(tmp_path, make_model(Encoding.INT8), step, data),
        place_of(tmp_path, model, finetune(0.2), data),
        place_of(tmp_path, model, step, other_text),
        place_of(tmp_path, model, step, moved_end),
    ]
    assert len(set(places)) == len(places)
    assert place_of(tmp_path, model.replace(name="other", tokenizer="{}"), step, data) == places[0], "names do not count"


def test_records_chain_and_survive_json(finetunes: list[Step], tmp_path: Path) -> None:
    tables: list[Table] = []
    model = make_model()
    done = run.run(model, [finetune(0.1), INT4], data_of(model), tmp_path, on_table=tables.append)
    first, last = done.records
    assert (first.technique, last.technique) == ("finetune", "quantize")
    assert first.after == last.before
    assert last.after.bytes < first.after.bytes / 3, "4 bits instead of 32, but a scale for each row of 8"
    assert last.after.distinct_values <= 15
    for record in done.records:
        assert StepRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert [row[0] for row in tables[0].rows] == ["finetune", "quantize"], "the cost is said before"


def test_a_finished_step_keeps_no_checkpoint_and_a_damaged_one_is_done_again(finetunes: list[Step], tmp_path: Path) -> None:
    model = make_model()
    run.run(model, [finetune(0.1)], data_of(model), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert [entry.name for entry in folder.iterdir()] == ["model"]
    (folder / "model" / "weights.safetensors").write_bytes(b"half")
    run.run(model, [finetune(0.1)], data_of(model), tmp_path)
    assert len(finetunes) == 2
    run.run(model, [finetune(0.1)], data_of(model), tmp_path)
    assert len(finetunes) == 2


def test_rounding_alone_is_not_kept(tmp_path: Path) -> None:
    run.run(make_model(), [INT8], None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_costs_are_known_before() -> None:
    model = make_model()
    (cost,) = costs([Finetune(SHORT)], data_of(model))
    # 144 documents of 33 tokens are 144 windows of 32: 18 batches of 8, of which a fifth is 4 steps.
    assert (cost.training_steps, cost.training_tokens) == (4, round(0.2 * 144 * 32))
    gptq = Quantize(Encoding.INT4, Encoding.INT4, Encoding.INT4, compensate="gptq", calibration_tokens=99)
    assert costs([gptq], data_of(model))[0].calibration_tokens == 99
    looking = [Prune(compensate="gptq", calibration_tokens=98), Cluster(compensate="gptq", calibration_tokens=97), Prune(), Cluster()]
    assert [cost.calibration_tokens for cost in costs(looking, data_of(model))] == [98, 97, 0, 0]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm.compress.steps import Steps

    model = trained("lstm")
    step = Finetune(RETRAIN)
    whole = run.run(model, [step], data_of(model), tmp_path / "whole")
    real, count = Steps.train, 0

    def interrupted(self: Steps, *arguments: object) -> float:
        nonlocal count
        count += 1
        if count == 30:
            raise KeyboardInterrupt
        return float(real(self, *arguments))

    monkeypatch.setattr(Steps, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(model, [step], data_of(model), tmp_path / "halves")
    count = 1000
    halves = run.run(model, [step], data_of(model), tmp_path / "halves")
    assert count - 1000 == 54 - 29, "54 steps, 29 of them done before"
    for name, weight in whole.model.weights.items():
        np.testing.assert_allclose(weight, halves.model.weights[name], atol=1e-5)  # threads may sum in another order
    assert halves.records[0].after.perplexity == pytest.approx(whole.records[0].after.perplexity, rel=1e-3)


# --- what users get wrong -------------------------------------------------------------------------------------------------------------


def test_a_step_that_wants_data_and_gets_none() -> None:
    with pytest.raises(RecipeError, match="wants text for finetune") as caught:
        run.run(make_model(), [finetune(0.1), INT8])
    assert caught.value.fix == "add --data CORPUS"


def test_an_illegal_order_is_refused_from_python_too() -> None:
    with pytest.raises(RecipeError, match="illegal order"):
        run.run(make_model(), [INT8, finetune(0.1)], data_of(make_model()))


def test_too_little_text_and_text_of_another_language() -> None:
    tokenizer = train_word_level(["see you at eight", "see you there"] * 3, vocab_size=16)
    known = np.array(tokenizer.encode("see you at eight there"), np.int32)
    assert tokenizer.unknown_id is not None and tokenizer.boundary_id is not None
    unknown = np.full(5, tokenizer.unknown_id, np.int32)
    boundary = np.full(1, tokenizer.boundary_id, np.int32)
    enough = LEAST_TOKENS // 5
    with pytest.raises(CorpusError, match="too small to train on: 995 training tokens"):
        require_fitting(Path("corpus"), [known] * (enough - 1), tokenizer)
    require_fitting(Path("corpus"), [known, known, unknown, boundary] * enough, tokenizer)
    # Half of the words are unknown; boundaries are no words.
    with pytest.raises(CorpusError, match=r"does not know 50% of the words of corpus"):
        require_fitting(Path("corpus"), [known, unknown, boundary] * enough, tokenizer)


@pytest.mark.data
@pytest.mark.parametrize("corpus", ["ud_german_gsd", "ud_chinese_gsdsimp"])
def test_a_real_corpus_of_another_language_is_refused(corpus: str, data_folder: Path) -> None:
    from edgelm import source
    from edgelm.compress.corpus_data import step_data
    from edgelm.text.corpus import Corpus

    model = source.load("keyboard-lstm").model
    assert isinstance(model, LanguageModel)
    with pytest.raises(CorpusError, match="another language"):
        step_data(Corpus.open(data_folder / "corpora" / corpus / "test.txt"), model)
