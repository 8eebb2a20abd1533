"""The whole path on tiny models, and what users meet when something is wrong."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import LINES, write_corpus, write_model

import edgelm
from edgelm import artifact, pipeline, recipe, source
from edgelm.errors import ArtifactError, SourceError, TokenizerError, UnsupportedModelError
from edgelm.model import LanguageModel, OpaqueGraph
from edgelm.runtime.sampling import SamplingSettings
from edgelm.spec import Encoding
from edgelm.text.tokenizer import train_word_level


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelm.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def check_named(report: edgelm.report.Report, text: str) -> edgelm.report.Check:
    return next(check for check in report.checks if text in check.name)


@pytest.fixture(params=["recurrent", "transformer"])
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny", request.param)
    return tmp_path / "tiny"


@pytest.mark.parametrize("model_folder", ["recurrent", "transformer", "parallel"], indirect=True)
def test_float32_is_proven_equal_and_written(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pipeline.convert(pipeline.Request(str(model_folder), recipe="float32", output=out, target="host")).report
    # 1e-4 times the scale of the logits: only the order of float32 sums differs.
    assert check_named(report, "largest logit difference").passed
    assert sorted(entry.name for entry in out.iterdir()) == [
        "manifest.json",
        "model.tflite",
        "report.html",
        "report.json",
        "tokenizer.json",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["way"] == "native"
    assert manifest["minimum_runtime"] == "tflite-runtime 2.14.0"
    assert json.loads((out / "report.json").read_text())["passed"] == report.passed


@pytest.mark.parametrize("name", sorted(name for name in recipe.shipped() if not recipe.load(name).wants_data))
def test_every_recipe_stores_one_copy_of_every_weight(name: str, model_folder: Path) -> None:
    imported = source.load(str(model_folder))
    assert isinstance(imported.model, LanguageModel)
    built = pipeline.build(imported.model, recipe.load(name))
    weights = imported.model.weights
    stored = sum(weight.size * built.encodings.get(key, Encoding.FLOAT32).bits / 8 for key, weight in weights.items())
    # The law of the file size: 3 % for scales and structure, 64 KiB for the graphs of all signatures.
    assert len(built.tflite) <= 1.03 * stored + 65536


@pytest.mark.parametrize("name", ["prune80-int8", "int4-block32-all", "int4", "int8-tflite2.14"])
def test_a_graph_that_was_not_recognised_takes_plain_rounding_only(name: str, tmp_path: Path) -> None:
    opaque = OpaqueGraph(tmp_path / "odd.keras", "keras", time=4, vocab_size=8, probabilities=False, last_only=False, name="odd")
    with pytest.raises(UnsupportedModelError, match=f"recipe {name} needs a model whose weights edgelm knows, and odd was not recognised"):
        pipeline.build(opaque, recipe.load(name), data=tmp_path)


def test_equal_input_gives_equal_bytes(model_folder: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        pipeline.convert(pipeline.Request(str(model_folder), output=tmp_path / out))
    for file in (artifact.MODEL, artifact.MANIFEST, artifact.TOKENIZER):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_next_commands_name_the_source_as_it_was_given(model_folder: Path, tmp_path: Path) -> None:
    spaced = model_folder.rename(tmp_path / "my model")
    report = pipeline.convert(pipeline.Request(str(spaced), output=tmp_path / "an out", target="host")).report
    (command,) = (line for line in report.next_commands if line.startswith("edgelm convert"))
    verb, given, *options = shlex.split(command)[1:]
    assert (verb, given, options[-1]) == ("convert", str(spaced), str(tmp_path / "an out-int4"))


@pytest.mark.parametrize(("recipe_name", "offered"), [("int8", "int4-block32"), ("int4-block32", "int8")])
def test_the_recipe_offered_next_is_another_one(recipe_name: str, offered: str, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    report = pipeline.convert(pipeline.Request(str(tmp_path / "tiny"), recipe=recipe_name, output=tmp_path / "out", target="host")).report
    (command,) = (line for line in report.next_commands if line.startswith("edgelm convert"))
    assert f"--recipe {offered} " in command


def test_the_five_lines_of_the_readme(model_folder: Path, tmp_path: Path) -> None:
    model = edgelm.load(model_folder)
    conversion = edgelm.convert(model, target="host", recipe="float32", output=tmp_path / "out")
    report = edgelm.check(conversion.folder)
    session = edgelm.session(conversion.folder)
    assert report.title == "tiny for host"
    assert len(edgelm.suggest(session, "see you", n=3)) == 3
    texts = ["".join(edgelm.complete(session, "see", max_tokens=6, settings=SamplingSettings(seed=seed))) for seed in range(4)]
    assert any(texts), "a random model ends one text at once, but not all four"


def test_quality_is_measured_beside_the_baselines(model_folder: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    request = pipeline.Request(str(model_folder), recipe="float32", output=tmp_path / "out", target="host", data=corpus)
    report = pipeline.convert(request).report
    table = next(table for table in report.tables if table.title == "Quality on held-out text")
    assert [row[0] for row in table.rows] == ["source", "artifact", "trigram", "unigram"]
    # float32 computes what the source computes, so the perplexities agree to the printed digits.
    assert table.rows[0][1] == table.rows[1][1]
    assert check_named(report, "perplexity against a trigram").passed is False, "random weights cannot beat counting words"


def test_check_wants_the_very_source(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    pipeline.convert(pipeline.Request(str(tmp_path / "tiny"), output=tmp_path / "out", target="host"))
    write_model(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match="hashes differ"):
        pipeline.check(tmp_path / "out", source_model=str(tmp_path / "other"))
    report = pipeline.check(tmp_path / "out", source_model=str(tmp_path / "tiny"))
    assert check_named(report, "mean KL").passed is not None


def test_the_2_14_profile_takes_its_own_recipe_and_refuses_row_scales(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    good = pipeline.convert(pipeline.Request(str(tmp_path / "tiny"), output=tmp_path / "good", target="android-tflite-2.14"))
    assert json.loads((good.folder / "manifest.json").read_text())["recipe"]["name"] == "int8-tflite2.14"
    assert check_named(good.report, "preflight for tflite-runtime 2.14.0").passed
    # The numbers on 2.14 itself, not only that it loads: a mislabelled file loads there and computes garbage.
    assert check_named(good.report, "tflite-runtime 2.14.0: mean KL").passed is not None
    request = pipeline.Request(str(tmp_path / "tiny"), output=tmp_path / "bad", target="android-tflite-2.14", recipe="int8")
    bad = pipeline.convert(request).report
    failed = [check for check in bad.checks if check.passed is False]
    assert any("zero" in check.cause or "garbage" in check.cause for check in failed)
    assert not any("parity" in check.name for check in bad.checks), "a file that lies is never run"


def test_a_missed_limit_exits_3_with_cause_and_next_command(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    host = (Path(__file__).parent.parent / "device_profiles" / "host.toml").read_text()
    small = tmp_path / "small.toml"
    small.write_text("\n".join("size_mb = 0.001" if line.startswith("size_mb") else line for line in host.splitlines()))
    result = run("convert", tmp_path / "tiny", "--target", small, "-o", tmp_path / "out")
    assert result.returncode == 3, result.stderr
    assert "FAIL file size:" in result.stdout
    assert "next:" in result.stdout
    assert (tmp_path / "out" / "model.tflite").is_file(), "the artifact is written all the same"


def test_predict_suggests_and_completes(model_folder: Path, tmp_path: Path) -> None:
    pipeline.convert(pipeline.Request(str(model_folder), output=tmp_path / "out", target="host"))
    suggested = run("predict", tmp_path / "out", "see you")
    assert suggested.returncode == 0, suggested.stderr
    assert len(suggested.stdout.splitlines()) == 3
    completed = run("predict", tmp_path / "out" / "model.tflite", "see", "--complete", "5", "--seed", "3")
    assert completed.stdout.startswith("see")
    assert "tokens/s" in completed.stderr
    assert run("predict", tmp_path / "out", "see", "--complete", "5", "--seed", "3").stdout == completed.stdout


def test_inspect_shows_artifacts_and_sources(model_folder: Path, tmp_path: Path) -> None:
    pipeline.convert(pipeline.Request(str(model_folder), output=tmp_path / "out", target="host"))
    shown = run("inspect", tmp_path / "out")
    assert "FULLY_CONNECTED" in shown.stdout
    assert "tokenizer.json" in shown.stdout
    assert "embedding.weight" in run("inspect", model_folder).stdout


# --- what users get wrong -------------------------------------------------------------------------------------------------------


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    for word in words:
        assert word in result.stderr


def test_a_tokenizer_that_is_too_big_for_the_model_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    words = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(200))
    (tmp_path / "big.json").write_text(train_word_level([words], vocab_size=300).to_json())
    with pytest.raises(TokenizerError):
        source.load(str(tmp_path / "tiny"), tokenizer=tmp_path / "big.json")
    refused(run("convert", tmp_path / "tiny", "--tokenizer", tmp_path / "big.json", "-o", tmp_path / "out"), "tokenizer")
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "mine.toml").write_text('[[steps]]\ntechnique = "quantize"\nwieghts = "int8"\n')
    refused(run("convert", tmp_path / "tiny", "--recipe", tmp_path / "mine.toml", "-o", tmp_path / "out"), "did you mean 'weights'")


def test_an_unwritable_output_is_refused_before_any_work(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "file").write_text("in the way")
    refused(run("convert", tmp_path / "tiny", "-o", tmp_path / "file" / "out"), "cannot be written")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    refused(run("convert", tmp_path / "tiny", "-o", tmp_path / "photos"), "is no edgelm artifact")


@pytest.mark.parametrize("damage", ["truncated weights", "bit-flipped header", "no json", "wrong shape", "no weights"])
def test_a_damaged_model_folder_is_refused_and_the_old_artifact_stays(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_model(folder)
    out = pipeline.convert(pipeline.Request(str(folder), output=tmp_path / "out", target="host")).folder
    before = (out / artifact.MODEL).read_bytes()
    weights, spec = folder / source.WEIGHTS, folder / source.SPEC
    data = weights.read_bytes()
    if damage == "truncated weights":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "bit-flipped header":
        weights.write_bytes(bytes([data[0] ^ 0x40]) + data[1:])
    elif damage == "no json":
        spec.write_text("not json")
    elif damage == "wrong shape":
        spec.write_text(spec.read_text().replace('"embedding_size": 32', '"embedding_size": 48'))
    else:
        weights.unlink()
    with pytest.raises((SourceError, UnsupportedModelError)):
        pipeline.convert(pipeline.Request(str(folder), output=out, target="host"))
    assert (out / artifact.MODEL).read_bytes() == before


@pytest.mark.slow
def test_killing_a_conversion_leaves_the_old_artifact(tmp_path: Path) -> None:
    """Killed at eight moments spread over a whole conversion; whatever stands there is a whole artifact."""
    write_model(tmp_path / "tiny")
    out = pipeline.convert(pipeline.Request(str(tmp_path / "tiny"), output=tmp_path / "out", target="host")).folder
    command = [sys.executable, "-m", "edgelm.cli.main", "convert", str(tmp_path / "tiny"), "--target", "host", "-o", str(out)]
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=False)
    whole = time.monotonic() - started
    for part in range(1, 9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(whole * part / 9)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        loaded = artifact.load(out)
        assert loaded.name == "tiny"
        assert np.frombuffer(loaded.tflite[4:8], "S4")[0] == b"TFL3"


def test_the_lines_of_the_tiny_corpus_are_known_words() -> None:
    tokenizer = train_word_level(LINES, vocab_size=64)
    assert tokenizer.unknown_id not in tokenizer.encode(LINES[0])
