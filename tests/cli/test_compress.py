"""`edgelm compress`, and `convert` with steps that train: a whole small recipe, and what users get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_models import LINES, write_model

from edgelm import artifact, pipeline, source
from edgelm.cli import compress, convert
from edgelm.errors import ArtifactError, CorpusError, MissingDependencyError, RecipeError, TokenizerError
from edgelm.model import LanguageModel
from edgelm.spec import Encoding

RECIPE = """
description = "train, then 4 bits"

[[steps]]
technique = "finetune"
[steps.train]
epochs = 1
batch_size = 4
sequence_length = 16
learning_rate = 5e-3
precision = "float32"

[[steps]]
technique = "quantize"
weights = "int4"
"""


def run(verb: object, *arguments: object) -> Result:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments], catch_exceptions=False, standalone_mode=False)  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """About 1,100 training tokens in 44 documents."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = ["\n".join(LINES[i : i + 5]) for i in range(12)]
    (folder / "train.txt").write_text("\n\n".join(documents * 4), encoding="utf-8")
    for split in ("dev", "test"):
        (folder / f"{split}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_recipe_is_run_recorded_written_cached_and_lowered(
    model: Path, recipe_file: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = tmp_path / "small"
    first = run(compress.command, model, "--recipe", recipe_file, "--data", corpus, "-o", small)
    assert "What the steps will cost" in first.stderr
    assert "steps in 1 epoch" in first.stderr
    assert "Compression step by step" in first.stdout
    assert f"next: edgelm convert {small} --target android-arm64" in first.stdout
    assert sorted(file.name for file in small.iterdir()) == [
        "report.json",
        "spec.json",
        "storage.json",
        "tokenizer.json",
        "weights.safetensors",
    ]
    trained, rounded = json.loads((small / "report.json").read_text())["records"]
    before, after = trained["before"], rounded["after"]
    assert after["perplexity"] < before["perplexity"], "it has learned something, 4 bits or not"
    assert after["bytes"] < before["bytes"] / 4

    # The second time nothing trains; the cache is beside the artifacts.
    again = run(compress.command, model, "--recipe", recipe_file, "--data", corpus, "-o", small)
    assert "epoch" not in again.stderr
    assert "cached" in again.stdout
    assert (tmp_path / "build" / "step-cache").is_dir()

    # What was compressed is lowered with its own encodings, and equals it.
    lowered = run(convert.command, small, "--target", "host", "-o", tmp_path / "lowered")
    manifest = json.loads((tmp_path / "lowered" / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "as-compressed"
    assert manifest["encodings"]["layers.0.recurrent.weight"] == "int4"
    assert "mean KL" in lowered.stdout

    # The same steps inside convert give the same weights, from the cache.
    inside = run(
        convert.command, model, "--recipe", recipe_file, "--data", corpus, "--target", "host", "-o", tmp_path / "inside", "--details"
    )
    assert "epoch" not in inside.stderr
    assert "the compressed model" in inside.stdout
    assert "Compression step by step" in inside.stdout
    one, two = (artifact.load(tmp_path / name) for name in ("lowered", "inside"))
    assert one.manifest["flatbuffer_sha256"] == two.manifest["flatbuffer_sha256"]
    report = json.loads((tmp_path / "inside" / "report.json").read_text())
    quality = next(table for table in report["tables"] if table["title"] == "Quality on held-out text")
    original, artifacts = (float(row[1].replace(",", "")) for row in quality["rows"][:2])
    assert artifacts < 0.9 * original, "loss is against the model before the recipe, which knew nothing"

    # Checked later, the source says nothing of what training made of it.
    checked = pipeline.check(tmp_path / "inside", source_model=str(model))
    assert not any("KL" in check.name for check in checked.checks)
    assert any("training changed its weights" in text for _, text in checked.facts)


def test_rounding_needs_neither_text_nor_keras(model: Path, tmp_path: Path) -> None:
    result = run(compress.command, model, "--recipe", "int4-block32", "-o", tmp_path / "small")
    assert "quantize" in result.stdout
    small = source.load(str(tmp_path / "small")).model
    assert isinstance(small, LanguageModel)
    assert small.encodings["layers.0.recurrent.weight"] is Encoding.INT4_BLOCK32
    assert small.tokenizer


def test_a_shipped_recipe_that_wants_data_and_gets_none(model: Path, tmp_path: Path) -> None:
    for verb in (compress.command, convert.command):
        with pytest.raises(RecipeError, match="recipe int8-qat wants text for qat, and there is none") as caught:
            run(verb, model, "--recipe", "int8-qat", "-o", tmp_path / "small")
        assert caught.value.fix == "add --data CORPUS"
    assert not (tmp_path / "small").exists()


def test_a_corpus_that_is_too_small_or_of_another_language(model: Path, corpus: Path, recipe_file: Path, tmp_path: Path) -> None:
    command = (compress.command, model, "--recipe", recipe_file, "-o", tmp_path / "small", "--cache", tmp_path / "cache", "--data")
    (corpus / "train.txt").write_text("\n\n".join(LINES[:6]))
    with pytest.raises(CorpusError, match="too small to train on: 35 training tokens"):
        run(*command, corpus)
    (corpus / "train.txt").write_text("\n\n".join(["wir sehen uns um acht", "bist du um acht da"] * 200))
    with pytest.raises(CorpusError, match=r"does not know \d\d+% of the words"):
        run(*command, corpus)
    assert not (tmp_path / "small").exists()


def test_a_model_without_a_tokenizer(model: Path, corpus: Path, recipe_file: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer") as caught:
        run(compress.command, model, "--recipe", recipe_file, "--data", corpus, "-o", tmp_path / "small")
    assert caught.value.fix == "add --tokenizer PATH"


def test_the_model_itself_and_foreign_folders_are_not_overwritten(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is the model itself"):
        run(compress.command, model, "--recipe", "int8", "-o", model)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ArtifactError, match="is no edgelm model folder"):
        run(compress.command, model, "--recipe", "int8", "-o", tmp_path / "photos")


def test_a_missing_extra_is_named(model: Path, corpus: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm import compression

    monkeypatch.setattr(compression.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        run(compress.command, model, "--recipe", recipe_file, "--data", corpus, "-o", tmp_path / "small")
    assert caught.value.fix == "pip install 'edgelm[keras]'"
