"""The native runner's weight cache: the same bits, made anew when it is another's, and memory that it saves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from runner_models import BUNDLED, random_ids, write_model, write_random

from edgelm.device import runner
from edgelm.runtime.session import open_session
from edgelm.spec import Encoding, TransformerSpec


def test_a_weight_cache_gives_the_same_bits_made_or_mapped(native, models, tmp_path):
    cache, ids = tmp_path / "weights", list(range(1, 40))
    for name in BUNDLED:  # the second finds the cache of the first, which would end the process if it were used
        expected = runner.run_tokens([native], models[name], ids)
        for _ in ("made", "mapped"):
            np.testing.assert_array_equal(runner.run_tokens([native], models[name], ids, weight_cache=cache), expected)
    content = cache.read_bytes()
    cache.write_bytes(content[: len(content) // 2])  # a full disk
    np.testing.assert_array_equal(runner.run_tokens([native], models[name], ids, weight_cache=cache), expected)
    assert cache.read_bytes() == content


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.INT4])
def test_a_weight_cache_serves_every_signature_in_every_encoding(native, tmp_path, encoding):
    """Made by the first rung and a prefill, mapped by the others; LiteRT ends the process over a matrix that it does not find there."""
    model, cache = write_model("chat-transformer", tmp_path, encoding), tmp_path / "weights"
    ids = random_ids(open_session(model), 150)
    expected = [runner.run_tokens([native], model, ids, prefill=prompt) for prompt in (20, 110)]
    for _ in ("made", "mapped"):
        for prompt, logits in zip((20, 110), expected, strict=True):
            np.testing.assert_array_equal(runner.run_tokens([native], model, ids, prefill=prompt, weight_cache=cache), logits)


@pytest.mark.slow
def test_a_weight_cache_of_another_litert_is_made_anew(models, tmp_path):
    """What is kept is in the layout of the library that packed it."""
    library = Path(shutil.copy2(runner.litert_library(), tmp_path / "libLiteRt.so"))
    native = runner.host_runner(tmp_path / "cache", library=library)
    notes: list[tuple[int, str]] = []
    for age in (0, 0, 60):  # seconds: the last time it is another file
        os.utime(library, (1e9 + age, 1e9 + age))
        runner.run_tokens([native], models["keyboard-lstm"], [1], weight_cache=tmp_path / "weights")
        note = tmp_path / "weights.model"
        notes.append((note.stat().st_mtime_ns, note.read_text(encoding="utf-8")))
    assert notes[0] == notes[1]
    assert notes[1] != notes[2]


def test_a_weight_cache_of_other_weights_is_not_used(native, models, tmp_path):
    """Same shapes, size and date, other weights: XNNPACK itself would go on with the old ones."""
    model, cache, ids = tmp_path / "model.tflite", tmp_path / "weights", [1, 2, 3]
    shutil.copyfile(models["chat-transformer"], model)
    status = model.stat()
    before = runner.run_tokens([native], model, ids, weight_cache=cache)
    content = bytearray(model.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(value ^ 0x55 for value in content[middle : middle + 20_000])
    model.write_bytes(content)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = runner.run_tokens([native], model, ids, weight_cache=cache)
    assert (after != before).any()
    np.testing.assert_array_equal(after, runner.run_tokens([native], model, ids))


def test_a_weight_cache_saves_memory(native, models, tmp_path):
    """Without one, five signatures have a copy of the packed weights each; with one, two signatures share it and the others wait."""
    model, cache = models["chat-transformer"], tmp_path / "weights"
    runner.run_bench([native], model, tokens=5, weight_cache=cache)
    without, mapped = (runner.run_bench([native], model, tokens=5, **options) for options in ({}, {"weight_cache": cache}))
    assert mapped["memory"]["peak_mb"] < 0.65 * without["memory"]["peak_mb"]  # measured: 0.55


def test_signatures_that_take_turns_save_memory(native, tmp_path):
    """Many layers of few weights: what counts is how much LiteRT has set up. Of six signatures two: 19.8 MB; all of them: 29.6 MB."""
    model, cache = write_random(TransformerSpec(64, 32, 24, 4, 2, 8, 64, max_positions=512), tmp_path), tmp_path / "weights"
    runner.run_bench([native], model, tokens=5, weight_cache=cache)
    without, turns = (runner.run_bench([native], model, tokens=5, **options) for options in ({}, {"weight_cache": cache}))
    assert turns["memory"]["peak_mb"] < 0.8 * without["memory"]["peak_mb"]  # measured: 0.64, and 0.95 with all of them
