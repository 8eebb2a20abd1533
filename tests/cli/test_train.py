"""`edgelm train` from a text file to a model that can be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgelm.cli.train import command
from edgelm.cli.train_progress import duration
from edgelm.errors import CorpusError, SourceError, UnsupportedModelError

QUICK = ("--epochs", "2", "--sequence", "16", "--batch", "4", "--learning-rate", "0.01", "--warmup", "2", "--strategy", "none")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    turns = ["see you at eight", "no , see you at nine", "are you at home ?", "yes , i am at home"]
    path = tmp_path / "chat.txt"
    path.write_text("\n\n".join("\n".join(turns[i % 4 :] + turns[: i % 3]) for i in range(40)) + "\n", encoding="utf-8")
    return path


def _run(*arguments: object, **options: bool) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "family"),
    [
        (("--model", "rnn", "--embedding", 8, "--units", "12,10", "--tokenizer", "word", "--vocab", 40), "recurrent"),
        (("--model", "llama", "--size", "tiny", "--width", 16, "--layers", 1, "--heads", 2, "--tokenizer", "char"), "transformer"),
    ],
    ids=["rnn-word", "llama-char"],
)
def test_a_corpus_becomes_a_model_and_its_tokenizer(options: tuple[object, ...], family: str, corpus: Path, tmp_path: Path) -> None:
    from edgelm.models import keras_model
    from edgelm.text.tokenizer import Tokenizer

    output = tmp_path / "out" / "chat.keras"
    result = _run(corpus, *options, *QUICK, "-o", output)
    assert result.exit_code == 0, result.output
    assert "validation perplexity" in result.stdout
    assert f"next: edgelm convert {output} --target android-arm64" in result.stdout
    assert "parameters" in result.stderr  # what it costs is said before
    assert "steps in 2 epochs" in result.stderr
    assert "epoch 2: loss" in result.stderr
    assert sorted(path.name for path in output.parent.iterdir()) == ["chat.keras", "chat.training", "tokenizer.json"]
    model, tokenizer = keras_model.load(output), Tokenizer.load(output.parent / "tokenizer.json")
    spec = keras_model.spec_of(model)
    assert spec.family == family
    assert spec.vocab_size == tokenizer.vocab_size
    stated = float(result.stdout.split("validation perplexity ")[1].split()[0])
    assert stated < tokenizer.vocab_size  # uniform guessing
    assert np.isfinite(model(np.array([tokenizer.encode("see you at")], np.int32)).numpy()).all()


@pytest.mark.slow
def test_resume_takes_the_checkpoint_and_gives_the_same_model(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm.compress.steps import Steps
    from edgelm.models import keras_model

    arguments = ("--model", "rnn", "--embedding", 8, "--units", 12, "--vocab", 40, *QUICK)
    _run(corpus, *arguments, "-o", tmp_path / "whole.keras")
    real = Steps.train

    def interrupted(self: Steps, *step: object) -> float:
        if self.done == 5:
            raise KeyboardInterrupt
        return real(self, *step)

    monkeypatch.setattr(Steps, "train", interrupted)
    stopped = CliRunner().invoke(command, [*map(str, (corpus, *arguments)), "-o", str(tmp_path / "halves.keras")], standalone_mode=False)
    assert "--resume" in stopped.stderr
    assert not (tmp_path / "halves.keras").exists()
    monkeypatch.setattr(Steps, "train", real)
    resumed = _run(corpus, *arguments, "-o", tmp_path / "halves.keras", "--resume")
    assert "resumed after step 5" in resumed.stderr
    whole, halves = (keras_model.get_weights(keras_model.load(tmp_path / f"{name}.keras")) for name in ("whole", "halves"))
    for name, weight in whole.items():
        np.testing.assert_allclose(weight, halves[name], atol=1e-6)  # threads may sum in another order


@pytest.mark.parametrize(
    "options",
    [("--model", "gpt2", "--units", "8"), ("--model", "lstm", "--width", "8"), ("--units", "8,x"), ("--units", "8", "--layers", "2")],
)
def test_options_that_do_not_fit_are_usage_errors(options: tuple[str, ...], corpus: Path) -> None:
    assert _run(corpus, *options).exit_code == 2


def test_errors_come_before_any_training(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"model\.bin"):
        _run(corpus, "-o", tmp_path / "model.bin")
    with pytest.raises(CorpusError, match="nowhere"):
        _run(tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match="heads"):
        _run(corpus, "--model", "llama", "--width", 30, "--heads", 4, "-o", tmp_path / "model.keras")
    with pytest.raises(UnsupportedModelError, match="--positions 8"):
        _run(corpus, "--model", "gpt2", "--positions", 8, "-o", tmp_path / "model.keras")


def test_durations_are_readable() -> None:
    assert [duration(seconds) for seconds in (4.4, 61, 3725)] == ["4 s", "1 min 1 s", "1 h 2 min"]
