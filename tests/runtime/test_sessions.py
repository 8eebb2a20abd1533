from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny_graphs as tiny

from edgelm.errors import ContextFullError, EdgeLMError, RuntimeFailure
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.runtime.engine import RUNTIMES
from edgelm.runtime.session import ForwardSession, RecurrentSession, TransformerSession, open_session
from edgelm.spec import RecurrentSpec, TransformerSpec, weight_shapes
from edgelm.tflite.writer import ModelBuilder

LADDER = (6, 12, 24)
ONE = np.ones(1, np.int32)
IDS = np.random.default_rng(3).integers(0, tiny.VOCAB, 24)
ROUNDING = 1e-5  # logits are below 30 here; the products are a few float32 operations deep
runtimes = pytest.mark.parametrize("runtime", list(RUNTIMES))


@pytest.fixture(scope="module")
def w():
    return tiny.weights()


@pytest.fixture(scope="module")
def expected(w):
    return tiny.transformer_logits(w, IDS[None].astype(np.int32))[0]  # (time, vocab)


def open_ladder(w, runtime="ai-edge-litert", **options) -> TransformerSession:
    session = open_session(tiny.transformer_bytes(w, **{"ladder": LADDER, **options}), runtime=runtime)
    assert isinstance(session, TransformerSession)
    return session


@runtimes
def test_recurrent_steps_equal_the_oracle(w, runtime):
    session = open_session(tiny.recurrent_bytes(w), runtime=runtime)
    steps = np.stack([session.step(int(i)).copy() for i in IDS])
    np.testing.assert_allclose(steps, tiny.recurrent_logits(w, IDS[None])[0], atol=ROUNDING)
    assert session.position == len(IDS) and session.vocab_size == tiny.VOCAB and session.max_positions is None
    session.reset()
    np.testing.assert_array_equal(session.prefill(IDS[:5].tolist()), steps[4])


@runtimes
def test_recurrent_batch_runs_texts_side_by_side_and_resets_rows(w, runtime):
    ids = np.random.default_rng(4).integers(0, tiny.VOCAB, (3, 8)).astype(np.int32)
    session = open_session(tiny.recurrent_bytes(w), runtime=runtime, batch=3)
    assert isinstance(session, RecurrentSession)
    steps = np.stack([session.step_batch(column).copy() for column in ids.T], axis=1)
    np.testing.assert_allclose(steps, tiny.recurrent_logits(w, ids), atol=ROUNDING)
    session.reset_rows(np.array([True, False, True]))
    after = session.step_batch(ids[:, 0])
    continued = tiny.recurrent_logits(w, np.concatenate([ids, ids[:, :1]], axis=1))[:, -1]
    np.testing.assert_allclose(after[1], continued[1], atol=ROUNDING)
    np.testing.assert_allclose(after[[0, 2]], steps[[0, 2], 0], atol=ROUNDING)


def test_recurrent_snapshot_comes_back_after_other_tokens(w):
    session = open_session(tiny.recurrent_bytes(w))
    session.prefill([1, 2, 3])
    here = session.snapshot()
    straight = session.step(4).copy()
    session.prefill([5, 6])
    session.restore(here)
    assert session.position == 3
    np.testing.assert_array_equal(session.step(4), straight)


@runtimes
@pytest.mark.parametrize("transposed", [False, True])
def test_ladder_equals_the_oracle_and_a_long_rung(w, expected, runtime, transposed):
    climbing = open_ladder(w, runtime, transposed=transposed)
    steps = np.stack([climbing.step(int(i)).copy() for i in IDS])
    np.testing.assert_allclose(steps, expected, atol=ROUNDING)
    long = open_ladder(w, runtime, ladder=(24,), transposed=transposed)
    np.testing.assert_allclose([long.step(int(i)).copy() for i in IDS], steps, atol=ROUNDING)


@runtimes
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 3, 4, 7, 12, 13, 23, 24])
def test_prefill_equals_steps_wherever_it_ends(w, expected, runtime, transposed, count):
    session = open_ladder(w, runtime, prefill=((4, 24), (8, 24)), transposed=transposed)
    np.testing.assert_allclose(session.prefill(IDS[:count].tolist()), expected[count - 1], atol=ROUNDING)
    rest = [session.step(int(i)).copy() for i in IDS[count:]]
    np.testing.assert_allclose(np.reshape(rest, (-1, tiny.VOCAB)), expected[count:], atol=ROUNDING)


def test_prefill_twice_continues(w, expected):
    session = open_ladder(w, prefill=((4, 24),))
    session.prefill(IDS[:5].tolist())
    session.step(int(IDS[5]))
    np.testing.assert_allclose(session.prefill(IDS[6:20].tolist()), expected[19], atol=ROUNDING)


def test_prefill_with_a_short_cache_leaves_the_rest_to_steps(w, expected):
    session = open_ladder(w, prefill=((4, 8),))
    np.testing.assert_allclose(session.prefill(IDS.tolist()), expected[-1], atol=ROUNDING)


def test_prefill_uses_few_calls(w):
    session = open_ladder(w, prefill=((8, 24),))
    session.prefill(IDS[:21].tolist())
    assert set(session._stages) == {"decode_6", "prefill_8"}, "two full chunks and one of five: no step"
    sparse = open_ladder(w, prefill=((16, 24),))
    sparse.prefill(IDS[:3].tolist())
    assert set(sparse._stages) == {"decode_6"}, "three tokens are less than a quarter of a chunk of sixteen"


def test_full_context_says_how_long_it_is(w):
    session = open_ladder(w, prefill=((8, 24),))
    assert session.max_positions == 24
    session.prefill(IDS.tolist())
    with pytest.raises(ContextFullError, match="24 tokens") as caught:
        session.step(0)
    assert caught.value.fix
    session.reset()
    session.step(1)
    with pytest.raises(ContextFullError, match="1 are taken, 24 more"):
        session.prefill(IDS.tolist())
    assert session.position == 1, "none of the tokens was taken"


def test_reset_forgets_and_returns_to_the_shortest_rung(w, expected):
    session = open_ladder(w)
    session.prefill(IDS.tolist())
    session.reset()
    np.testing.assert_allclose(session.step(int(IDS[0])), expected[0], atol=ROUNDING)
    assert session._stage.slots == LADDER[0]


@pytest.mark.parametrize("seed", range(6))
def test_snapshots_survive_any_order_of_steps_and_restores(w, seed):
    rng = np.random.default_rng(seed)
    session = open_ladder(w, prefill=((4, 24),))
    text: list[int] = []
    saved = []
    for _ in range(60):
        match rng.integers(4):
            case 0:
                saved.append((session.snapshot(), list(text)))
            case 1 if saved:
                snapshot, text = saved[rng.integers(len(saved))]
                text = list(text)
                session.restore(snapshot)
            case 2 if rng.random() < 0.2:
                session.reset()
                text = []
            case _ if len(text) < 20:
                new = rng.integers(0, tiny.VOCAB, rng.integers(1, 5)).tolist()
                text += new
                logits = session.prefill(new)
                oracle = tiny.transformer_logits(w, np.array([text], np.int32))[0, -1]
                np.testing.assert_allclose(logits, oracle, atol=ROUNDING)
        assert session.position == len(text)


def test_snapshots_copy_only_what_is_new(w):
    session = open_ladder(w)
    session.prefill(IDS[:10].tolist())
    first = session.snapshot()
    session.step(1)
    second = session.snapshot()
    assert second.parent is first and second.rows[0].shape[0] == 1
    assert session.snapshot() is second


@runtimes
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_forward_window(w, runtime, last_only, probabilities):
    session = open_session(tiny.forward_bytes(w, 6, last_only=last_only, probabilities=probabilities), runtime=runtime)
    assert isinstance(session, ForwardSession) and session.max_positions == 6
    ids = IDS[:6]
    if last_only:
        oracle = np.stack([np.mean(w["table"][[*([0] * 3), *ids[: n + 1]][-3:]], axis=0) @ w["head"].T for n in range(6)])
    else:
        oracle = w["table"][ids] @ w["head"].T  # (6, vocab)
    if probabilities:
        oracle = oracle - np.log(np.exp(oracle).sum(-1, keepdims=True))
    np.testing.assert_allclose([session.step(int(i)).copy() for i in ids], oracle, atol=1e-4)  # the logarithm of small probabilities
    session.reset()
    np.testing.assert_allclose(np.stack([row.copy() for row in session.stream(ids.tolist())]), oracle, atol=1e-4)
    with pytest.raises(ContextFullError, match="6 tokens"):
        session.step(0)
    here = session.snapshot()
    session.reset()
    session.restore(here)
    assert session.position == 6


@pytest.mark.parametrize("token", [-1, tiny.VOCAB])
def test_tokens_outside_of_the_vocabulary_are_refused(w, token):
    for model in (
        tiny.recurrent_bytes(w),
        tiny.transformer_bytes(w, LADDER),
        tiny.forward_bytes(w, 4, last_only=False, probabilities=False),
    ):
        session = open_session(model)
        with pytest.raises(RuntimeFailure, match=f"token id {token} is outside"):
            session.step(token)
        with pytest.raises(RuntimeFailure, match=f"token id {token} is outside"):
            session.prefill([1, token])
        with pytest.raises(RuntimeFailure, match="no tokens"):
            session.prefill([])
        assert session.position == 0
    with pytest.raises(RuntimeFailure, match="is outside"):
        open_session(tiny.recurrent_bytes(w), batch=2).step_batch(np.array([0, token]))


@runtimes
def test_threads_give_the_same_numbers(w, runtime):
    one, two = (open_session(tiny.transformer_bytes(w, LADDER), runtime=runtime, threads=n) for n in (1, 2))
    np.testing.assert_allclose(one.prefill(IDS.tolist()), two.prefill(IDS.tolist()), atol=ROUNDING)
    with pytest.raises(RuntimeFailure, match="threads = 0"):
        open_session(tiny.recurrent_bytes(w), runtime=runtime, threads=0)


def test_views_outlive_the_session(w):
    logits = open_session(tiny.recurrent_bytes(w)).step(3)
    np.testing.assert_allclose(logits, tiny.recurrent_logits(w, np.array([[3]]))[0, 0], atol=ROUNDING)


def test_dropping_a_session_frees_its_model(w):
    session = open_ladder(w, prefill=((8, 24),))
    session.prefill(IDS[:9].tolist())
    interpreter = weakref.ref(session._engine._interpreter)
    gc.disable()  # numpy arrays are invisible to the collector: a cycle through them would never be freed
    del session
    gc.enable()
    assert interpreter() is None


@runtimes
def test_graphs_with_dynamic_tensors_run_on_copies(w, runtime):
    builder = ModelBuilder()
    g = builder.subgraph("step")
    token, h = g.input("token", (1,), "int32"), g.input("h_0", (1, tiny.WIDTH))
    new = g.tanh(g.add(g.add(g.embedding_lookup(token, tiny.stored(g, "table", w)), g.fully_connected(h, tiny.stored(g, "mix", w))), 0.0))
    computed_shape = g.gather(g.constant(np.array([tiny.WIDTH, 1], np.int32)), g.sub(g.add(token, g.constant(ONE)), token))
    assert computed_shape.shape == (1,)
    rows = g._op("RESHAPE", [new, g.concatenate([computed_shape, g.constant(np.array([tiny.WIDTH], np.int32))])], (1, tiny.WIDTH))
    g.output("logits", tiny.head(g, rows, w))
    g.output("h_0", new)
    session = open_session(builder.finish(), runtime=runtime)
    assert not session._call.zero_copy
    steps = [session.step(int(i)).copy() for i in IDS]
    np.testing.assert_allclose(steps, tiny.recurrent_logits(w, IDS[None])[0], atol=ROUNDING)


@runtimes
def test_a_file_runs_like_its_bytes(w, runtime, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny.recurrent_bytes(w))
    np.testing.assert_array_equal(
        open_session(path, runtime=runtime).prefill([1, 2]), open_session(path.read_bytes(), runtime=runtime).prefill([1, 2])
    )


def test_batch_and_unknown_runtimes_and_signatures_are_refused(w, tmp_path):
    with pytest.raises(RuntimeFailure, match="batch = 2"):
        open_session(tiny.transformer_bytes(w, LADDER), batch=2)
    with pytest.raises(RuntimeFailure, match="'onnxruntime' is not known") as caught:
        open_session(tiny.recurrent_bytes(w), runtime="onnxruntime")
    assert "ai-edge-litert, tflite-runtime" in str(caught.value)
    with pytest.raises(RuntimeFailure, match="cannot be opened"):
        open_session(tmp_path / "nothing.tflite")
    with pytest.raises(EdgeLMError):
        open_session(Path(__file__))


@runtimes
@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal"])
def test_lowered_transformers_have_no_dynamic_tensors(runtime, position):
    spec = TransformerSpec(
        vocab_size=20, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ffn_size=16, max_positions=16, position=position
    )
    model = LanguageModel(spec, {name: np.ones(shape, np.float32) for name, shape in weight_shapes(spec).items()})
    session = open_session(lower(model, ladder=(8, 16), prefill=4).tflite, runtime=runtime)
    session.prefill(list(range(12)))
    session.step(1)
    assert {name: stage.call.zero_copy for name, stage in session._stages.items()} == dict.fromkeys(session._stages, True)
    assert session._stages.keys() == {"prefill_4", "decode_8", "decode_16"}


@runtimes
@pytest.mark.parametrize("batch", [1, 3])
def test_lowered_recurrent_models_have_no_dynamic_tensors(runtime, batch):
    for cell in ("rnn", "gru", "lstm", "cifg"):
        spec = RecurrentSpec(vocab_size=20, embedding_size=8, cell=cell, units=(8,))
        model = LanguageModel(spec, {name: np.ones(shape, np.float32) for name, shape in weight_shapes(spec).items()})
        session = open_session(lower(model).tflite, runtime=runtime, batch=batch)
        assert session._call.zero_copy
