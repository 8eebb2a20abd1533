"""The native runner against Python's sessions on the same files: same bits, errors without a crash, nothing half-written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runner_models import BUNDLED, random_ids, runner_for_blocks, write_model

from edgelm.device import profile_report, runner
from edgelm.errors import MissingDependencyError, RuntimeFailure
from edgelm.runtime.engine import Engine
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding

TOKENS = 280  # past the second rung of the ladder 128, 256, 512


@pytest.mark.parametrize("name", BUNDLED)
def test_steps_give_pythons_bits(native, models, name):
    session = open_session(models[name])
    ids = random_ids(session, TOKENS)
    expected = np.stack([session.step(token).copy() for token in ids])
    np.testing.assert_array_equal(runner.run_tokens([native], models[name], ids), expected)


# 5: steps; 20: a prefill_32 with padding; 70: a prefill_64, then steps; 110: on to the second rung; 230: several chunks, the last of
# them in the longest cache. With a weight cache the signatures are set up by turns.
@pytest.mark.parametrize("prompt", [5, 20, 70, 110, 230])
def test_prefill_and_the_steps_after_it_give_pythons_bits(native, models, prompt, tmp_path):
    model = models["chat-transformer"]
    session = open_session(model)
    ids = random_ids(session, prompt + 40)
    expected = [session.prefill(ids[:prompt]).copy(), *(session.step(token).copy() for token in ids[prompt:])]
    for cache in ({}, {"weight_cache": tmp_path / "made"}, {"weight_cache": tmp_path / "made"}):
        np.testing.assert_array_equal(runner.run_tokens([native], model, ids, prefill=prompt, **cache), np.stack(expected))


@pytest.mark.parametrize("name", BUNDLED)
def test_calls_of_every_signature_give_pythons_bits(native, models, name):
    engine, rng = Engine(models[name]), np.random.default_rng(2)
    for signature in engine.signatures:
        call = engine.call(signature)
        inputs, outputs = [], []
        for _ in range(2):
            for key, tensor in call.inputs.items():
                drawn = rng.integers(0, 8, tensor.shape) if tensor.dtype.kind == "i" else rng.standard_normal(tensor.shape)
                tensor[...] = drawn
                if key == "mask":
                    tensor[..., 8:] = -1e9
            inputs.append({key: tensor.copy() for key, tensor in call.inputs.items()})
            call.invoke()
            outputs.append({key: tensor.copy() for key, tensor in call.outputs.items()})
        ran = runner.run_calls([native], models[name], signature, inputs, repeat=2)
        for got, expected in zip(ran, outputs, strict=True):
            assert got.keys() == expected.keys()
            for key in expected:
                np.testing.assert_array_equal(got[key], expected[key], err_msg=f"{signature} {key}")


def test_calls_are_checked_before_they_run(native, models):
    model = models["keyboard-lstm"]
    good = {key: tensor.copy() for key, tensor in Engine(model).call("step").inputs.items()}
    for bad, said in (
        ({key: good[key] for key in good if key != "token"}, "was given"),
        ({**good, "token": np.zeros(2, np.int32)}, r"input token of step is int32 \(2,\)"),
        ({**good, "token": np.zeros(1, np.int64)}, "input token of step is int64"),
    ):
        with pytest.raises(RuntimeFailure, match=said):
            runner.run_calls([native], model, "step", [bad])
    with pytest.raises(RuntimeFailure, match="no signature 'stride'"):
        runner.run_calls([native], model, "stride", [good])


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_blocks_of_4_bits_give_pythons_bits_in_the_litert_that_loads_them(tmp_path, name):
    """Across two chunks and two rungs, whose signatures take turns in the weight cache, though scales of blocks are 16-bit floats."""
    model, cache, native = write_model(name, tmp_path, Encoding.INT4_BLOCK32), tmp_path / "weights", runner_for_blocks()
    session = open_session(model)
    ids, prompt = random_ids(session, 150), 90
    expected = np.stack([session.prefill(ids[:prompt]).copy(), *(session.step(token).copy() for token in ids[prompt:])])
    for options in ({}, {"weight_cache": cache}, {"weight_cache": cache}):
        np.testing.assert_array_equal(runner.run_tokens([native], model, ids, prefill=prompt, **options), expected)
    assert cache.stat().st_size > model.stat().st_size / 2
    assert runner.run_info([native])["runtime"]["version"] == runner.BLOCKS_VERSION


def test_blocks_of_4_bits_name_the_litert_that_loads_them(native, tmp_path):
    model = write_model("keyboard-lstm", tmp_path, Encoding.INT4_BLOCK32)
    with pytest.raises(RuntimeFailure, match=r"4-bit weights in blocks, which LiteRT's C library loads in version 2\.1\.2"):
        runner.run_tokens([native], model, [1])


def test_bench_of_a_transformer_reports_every_signature(native, models):
    model = models["chat-transformer"]
    plain = runner.run_bench([native], model, prompt=40, tokens=600, warmup=8, threads=2, seed=3)
    report = profile_report.parse(plain)
    times = report.decode.signature_ms
    assert list(times) == ["decode_128", "decode_256", "decode_512"]
    # 8 warm-up tokens follow the prompt; the session is full after 512 tokens and starts over
    assert {name: len(ms) for name, ms in times.items()} == {"decode_128": 128 - 48 + 128, "decode_256": 128 + 8, "decode_512": 256}
    assert report.prefill is not None and report.prefill.tokens == 40 and len(report.prefill.ms) == 5
    assert 0 < report.load_ms < report.first_token_ms
    assert 0 < report.memory.before_mb < report.memory.peak_mb
    assert report.runtime.version == importlib.metadata.version("ai-edge-litert") == runner.LITERT_VERSION
    assert report.runtime.threads == 2
    assert report.tool_version == importlib.metadata.version("edgelm")


def test_bench_of_a_recurrent_model(native, models):
    model = models["keyboard-lstm"]
    report = profile_report.parse(runner.run_bench([native], model, tokens=20))
    assert {name: len(ms) for name, ms in report.decode.signature_ms.items()} == {"step": 20}
    assert report.prefill is None
    assert report.model.name == "keyboard-lstm"
    assert report.model.bytes == model.stat().st_size
    assert report.model.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()


def test_info_names_the_machine(native):
    info = runner.run_info([native])
    assert info["device"]["abi"] == {"x86_64": "x86_64", "aarch64": "arm64-v8a"}[os.uname().machine]
    assert info["device"]["cores"] == os.cpu_count()
    assert info["runtime"] == {"name": "ai-edge-litert", "version": runner.LITERT_VERSION}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens", "none.tflite", "--ids", "1", "--outputs", "out"], "none.tflite cannot be opened: No such file"),
        (["tokens", ".", "--ids", "1", "--outputs", "out"], ". is empty or no file"),
        (["tokens", "text.txt", "--ids", "1", "--outputs", "out"], "text.txt is no .tflite file"),
        (["tokens", "m.tflite", "--ids", "1,10000", "--outputs", "out"], "token id 10000 is outside of the vocabulary: 0 to 9999"),
        (["tokens", "m.tflite", "--ids", "1,-1", "--outputs", "out"], "token id -1 is outside of the vocabulary"),
        (["tokens", "m.tflite", "--ids", "1,x", "--outputs", "out"], "--ids x is no whole number"),
        (["tokens", "m.tflite", "--ids", "1", "--outputs", "no/out"], "no/out cannot be written: No such file"),
        (["tokens", "m.tflite", "--ids", "1", "--outputs", "/dev/full"], "/dev/full cannot be written: it is no plain file"),
        (["tokens", "m.tflite", "--ids", "1", "--outputs", "out", "--weight-cache", "no/w"], "the weight cache no/w cannot be written"),
        (["tokens", "m.tflite", "--outputs", "out"], "option --ids is missing"),
        (["tokens", "m.tflite", "--ids"], "option --ids needs a value"),
        (["tokens", "--ids", "1", "--outputs", "out"], "no model was given"),
        (["bench", "m.tflite", "--json", "out", "--threads", "0"], "--threads 0: a whole number of at least 1"),
        (["bench", "m.tflite", "--json", "out", "--speed", "9"], "option --speed is not known"),
        (["bench", "t.tflite", "--json", "out", "--prompt", "513"], "the context is full: it holds 512 tokens, 0 are taken, 513 more"),
        (["calls", "m.tflite", "--signature", "x", "--inputs", "text.txt", "--outputs", "out"], "no signature x (it has: step)"),
        (["calls", "m.tflite", "--signature", "step", "--inputs", "text.txt", "--outputs", "out"], "12 bytes: a call of step takes 4100"),
        (["calls", "m.tflite", "--signature", "step", "--inputs", "none", "--outputs", "out"], "none cannot be opened"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(native, models, tmp_path, words, said):
    (tmp_path / "text.txt").write_text("hello model\n", encoding="utf-8")
    (tmp_path / "m.tflite").symlink_to(models["keyboard-lstm"])
    (tmp_path / "t.tflite").symlink_to(models["chat-transformer"])
    before = sorted(tmp_path.iterdir())
    done = subprocess.run([native, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kept", [7, 8, 100, 1500, 0.1, 0.5, 0.9])
def test_a_cut_model_is_an_error_and_no_crash(native, models, tmp_path, kept):
    content = models["chat-transformer"].read_bytes()
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(RuntimeFailure, match=r"is no \.tflite file|InvalidFlatbuffer|out of range offset|damaged or cut short"):
        runner.run_tokens([native], cut, [1])


def test_what_ends_a_run_is_told():
    with pytest.raises(RuntimeFailure, match="ended with 3: out of luck"):
        runner.run_runner(["sh", "-c", "echo out of luck >&2; exit 3"])
    with pytest.raises(RuntimeFailure, match="ended with -9"):
        runner.run_runner(["sh", "-c", "kill -9 $$"])
    with pytest.raises(RuntimeFailure, match=r"took more than 0\.2 s"):
        runner.run_runner(["sleep", "9"], timeout=0.2)
    with pytest.raises(RuntimeFailure, match="no-such-runner cannot be run: No such file"):
        runner.run_runner(["no-such-runner", "info"])


def test_the_runner_is_built_once_and_anew_for_other_sources(monkeypatch, tmp_path):
    """Stands in for the compiler: a build takes eight seconds."""
    compiler = tmp_path / "cxx"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nfor word; do last=$word; done\necho built > "$last"\n', encoding="utf-8")
    compiler.chmod(0o755)
    native = shutil.copytree(runner.NATIVE, tmp_path / "native")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(runner, "NATIVE", native)
    stages: list[str] = []
    first = runner.host_runner(tmp_path / "cache", stages.append)
    assert first.read_text(encoding="utf-8") == "built\n"
    assert runner.host_runner(tmp_path / "cache", stages.append) == first
    assert stages == ["building the native runner"]
    with (native / "litert_c.h").open("a", encoding="utf-8") as header:
        header.write("// changed\n")
    assert runner.host_runner(tmp_path / "cache", stages.append) != first
    assert len(stages) == 2


def test_a_failing_or_missing_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeFailure, match="cannot build the native runner"):
        runner.host_runner(tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match="CXX=no-such-compiler is no program"):
        runner.host_runner(tmp_path / "cache")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no C\\+\\+ compiler was found") as caught:
        runner.host_runner(tmp_path / "cache")
    assert "apt-get install g++" in caught.value.fix


def test_another_litert_is_refused(monkeypatch):
    monkeypatch.setattr(runner.importlib.metadata, "version", lambda name: "2.3.0")
    with pytest.raises(MissingDependencyError, match=r"ai-edge-litert is 2\.3\.0: its C API is not the runner's") as caught:
        runner.litert_library()
    assert caught.value.allowed == "2.1.0, 2.1.2"
    assert caught.value.fix == "pip install ai-edge-litert==2.1.0"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed: apt-get install cmake")
def test_an_app_embeds_the_library_by_cmake(models, tmp_path):
    app = Path(__file__).parent / "cpp_app"
    settings = [f"-DEDGELM_NATIVE={runner.NATIVE}", f"-DLITERT_LIBRARY={runner.litert_library()}"]
    subprocess.run(["cmake", "-S", app, "-B", tmp_path, *settings], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    for model in models.values():
        session = open_session(model)
        prompt = random_ids(session, 90)  # the continuation crosses from decode_128 to decode_256
        logits, expected = session.prefill(prompt), []
        for _ in range(100):
            expected.append(int(logits.argmax()))
            logits = session.step(expected[-1])
        done = subprocess.run([tmp_path / "cpp_app", model, *map(str, prompt)], capture_output=True, text=True, check=True)
        assert [int(word) for word in done.stdout.split()] == expected
