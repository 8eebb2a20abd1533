"""PyTorch modules lift through `edgelm.load`; files of torch are data or are refused."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnx_exports import legacy  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch_recurrent import RecurrentLM  # noqa: E402
from torch_sizes import HEADS, POSITIONS, STEPS, VOCAB, WIDTH  # noqa: E402
from torch_transformers import Llama  # noqa: E402
from torch_zoo import ZOO, Zoo, randomised  # noqa: E402

import edgelm  # noqa: E402
from edgelm import artifact, source  # noqa: E402
from edgelm.cli import convert  # noqa: E402
from edgelm.errors import ConversionError, SourceError, UnsafeModelError, UnsupportedModelError  # noqa: E402
from edgelm.lower.direct import lower  # noqa: E402
from edgelm.model import Imported, LanguageModel  # noqa: E402
from edgelm.models import reference  # noqa: E402
from edgelm.runtime.session import open_session  # noqa: E402
from edgelm.spec import RecurrentSpec, TransformerSpec  # noqa: E402

# float32 sums in another order: these models differ by 1e-7 to 1e-5; a wrong gate order, mask or rotation by 1e-1
MAX_DIFFERENCE = 1e-4

IDS = np.random.default_rng(5).integers(0, VOCAB, (1, STEPS))

SEEDS = (
    "lstm", "lstm-2", "lstm-3-time-first", "lstm-tied", "lstm-proj", "lstm-word-model-tied", "lstm-separate-states", "lstm-last",
    "lstm-tied-projection", "gru", "gru-last-states", "rnn-relu", "encoder", "encoder-norm-first", "encoder-sinusoidal",
    "transformer-tutorial", "gpt", "gpt-by-hand", "gpt-last", "gpt-cached", "llama", "llama-gqa", "llama-interleaved",
    "llama-rmsnorm-module", "llama-cached-gqa-table",
)  # fmt: skip


def loaded(zoo: Zoo) -> Imported:
    ids = torch.arange(10).reshape(1, 10)
    ids = ids.T if zoo.time_first else ids
    return edgelm.load(zoo.module, example_tokens=(ids, *zoo.initial) if zoo.family == "transformer" and zoo.initial else ids)


def on_litert(model: LanguageModel) -> np.ndarray:
    """Logits (time, vocab), token by token with the states carried."""
    options: dict[str, Any] = {"ladder": (STEPS,), "prefill": 0} if isinstance(model.spec, TransformerSpec) else {}
    session = open_session(lower(model, **options).tflite)
    return np.stack([session.step(int(token)).copy() for token in IDS[0]])


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(axis=-1, keepdims=True)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(centred(ours) - centred(theirs)).max())


@pytest.mark.parametrize("name", SEEDS)
def test_module_is_lifted_and_equals_torch(name: str) -> None:
    zoo = ZOO[name]()
    imported = loaded(zoo)
    model, wanted = imported.model, zoo.scores(IDS)
    assert isinstance(model, LanguageModel), model.origin and model.origin.why
    assert model.origin is not None
    assert (model.origin.format, model.origin.way) == ("torch", "lifted")
    assert model.origin.proof is not None
    assert model.origin.proof.max_abs_difference <= MAX_DIFFERENCE
    assert model.spec.family == zoo.family
    assert difference(on_litert(model), wanted) <= MAX_DIFFERENCE
    assert difference(imported.source_logits(IDS.astype(np.int32))[0], wanted) <= MAX_DIFFERENCE


def test_all_positions_survive_an_exporter_that_fixes_the_time() -> None:
    spec = loaded(ZOO["encoder"]()).model.spec  # type: ignore[union-attr]
    assert spec.max_positions == POSITIONS


def test_module_stays_as_it_is() -> None:
    module = RecurrentLM(nn.LSTM, 2, proj_size=8).train()
    module.dropout.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    edgelm.load(module, example_tokens=[[1, 2, 3]])
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert "forward" not in vars(module.rnn)
    assert torch.backends.mha.get_fastpath_enabled() == fused


class Wrapped(nn.Module):
    """A zoo model behind another forward."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ZOO["gru"]().module


class KeywordOnly(Wrapped):
    def forward(self, *, attention_mask: Tensor | None = None, input_ids: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.model(input_ids, None)[0]}


class WithLogits(Wrapped):
    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(loss=None, logits=self.model(input_ids, None)[0])


class StatesFirst(Wrapped):
    def forward(self, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits, hidden = self.model(ids, hidden)
        return hidden, logits

    def init_hidden(self, batch: int) -> Tensor:
        return torch.zeros(1, batch, WIDTH)


class Probabilities(Wrapped):
    def forward(self, ids: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits, hidden = self.model(ids, hidden)
        return logits.softmax(-1), hidden


@pytest.mark.parametrize("kind", [KeywordOnly, WithLogits, StatesFirst, Probabilities])
def test_forward_signatures(kind: type[Wrapped]) -> None:
    model = edgelm.load(kind(), name="mine").model
    assert isinstance(model, LanguageModel), model.origin and model.origin.why
    assert model.name == "mine"
    assert difference(reference.logits(model, IDS)[0], ZOO["gru"]().scores(IDS)) <= MAX_DIFFERENCE


def test_equal_modules_have_equal_hashes() -> None:
    first, second = (edgelm.load(ZOO[name]().module).model.source_sha256 for name in ("lstm", "lstm"))
    other = edgelm.load(randomised(RecurrentLM(nn.LSTM), seed=1)).model.source_sha256
    assert first == second != other


class TwoWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCAB, 8), nn.Linear(12, VOCAB)
        self.rnn = nn.GRU(8, 6, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids))[0])


class Pooled(nn.Module):
    """A classifier of three classes over texts."""

    def forward(self, ids: Tensor) -> Tensor:
        return ids.float().mean(1, keepdim=True).sum().expand(7)


class Bessel(Wrapped):
    """Has an operator that neither exporter knows."""

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.model(ids, None)[0]
        return torch.special.bessel_j0(logits)


class Drifting(Wrapped):
    """Computes something else when it is traced."""

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.model(ids, None)[0]
        return logits * 2 if torch.jit.is_tracing() else logits


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        (object(), UnsupportedModelError, "object is no torch.nn.Module"),
        (TwoWays(), UnsupportedModelError, "earlier positions see later tokens"),
        (Pooled(), UnsupportedModelError, "Pooled cannot be run on token ids"),
        (nn.LSTM(4, 4), UnsupportedModelError, "LSTM cannot be run on token ids"),
        (Drifting(), ConversionError, "does not compute what the module does"),
    ],
    ids=["no module", "bidirectional", "no scores", "no ids", "other when traced"],
)
def test_what_is_no_language_model_gives_one_clear_error(module: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        edgelm.load(module, example_tokens=[[1, 2, 3, 4]])


def test_one_step_cells_are_named() -> None:
    zoo = ZOO["lstm-cell"]()
    with pytest.raises(UnsupportedModelError, match="reads one token a call"):
        edgelm.load(zoo.module, example_tokens=(torch.tensor([[1, 2, 3]]), *zoo.initial))


def test_example_tokens_must_be_ids() -> None:
    with pytest.raises(UnsupportedModelError, match="float64"):
        edgelm.load(ZOO["lstm"]().module, example_tokens=np.zeros((1, 4)))


@pytest.mark.slow  # the dynamo exporter is asked, too
def test_an_operator_that_cannot_be_exported_is_named() -> None:
    with pytest.raises(ConversionError, match="bessel_j0"):
        edgelm.load(Bessel(), example_tokens=[[1, 2, 3, 4]])


# Files


def nanogpt_checkpoint(path: Path, **arguments: Any) -> np.ndarray:
    """A checkpoint as nanoGPT's train.py saves it (compiled), and its model's logits."""
    zoo = ZOO["gpt"]()
    renamed = {"wte": "transformer.wte", "wpe": "transformer.wpe", "ln_f": "transformer.ln_f", "lm_head": "lm_head"}
    inner = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}
    state = OrderedDict()
    for name, value in zoo.module.state_dict().items():
        part, *rest = name.split(".")
        where = f"transformer.h.{rest[0]}.{inner.get(rest[1], rest[1])}" if part == "h" else renamed[part]
        state[f"_orig_mod.{where}.{rest[-1]}"] = value
    plain = {"n_layer": 2, "n_head": HEADS, "n_embd": WIDTH, "block_size": POSITIONS, "bias": True, "vocab_size": VOCAB, "dropout": 0.0}
    torch.save({"model": state, "optimizer": {}, "model_args": plain | arguments, "iter_num": 7, "best_val_loss": torch.tensor(1.5)}, path)
    return zoo.scores(IDS)


def llama2c_checkpoint(path: Path) -> np.ndarray:
    """A checkpoint as llama2.c's train.py saves it, and its model's logits."""
    zoo = Zoo(randomised(Llama(kv_heads=2, rotary="table")), "transformer")
    inner = {**{f"w{part}": f"attention.w{part}" for part in "qkvo"}, **{f"w{number}": f"feed_forward.w{number}" for number in (1, 2, 3)}}
    state = {}
    for name, value in zoo.module.state_dict().items():
        part, *rest = name.split(".")
        if "rotary" not in rest:
            state[f"layers.{rest[0]}.{inner.get(rest[1], rest[1])}.weight" if part == "layers" else name] = value
    plain = {
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": HEADS,
        "n_kv_heads": 2,
        "vocab_size": VOCAB,
        "multiple_of": 8,
        "max_seq_len": POSITIONS,
    }
    torch.save({"model": state, "model_args": plain}, path)
    return zoo.scores(IDS)


@pytest.mark.parametrize("write", [nanogpt_checkpoint, llama2c_checkpoint])
def test_known_checkpoints_need_no_trust(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    wanted = write(path)
    model = source.load(path).model
    assert isinstance(model, LanguageModel)
    assert difference(on_litert(model), wanted) <= MAX_DIFFERENCE


@pytest.mark.slow  # transformers is imported
@pytest.mark.parametrize("wrapped", [False, True])
def test_state_dict_with_a_config_beside_it(wrapped: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=POSITIONS, **sizes)
    theirs = randomised(transformers.LlamaForCausalLM(config))
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    state = theirs.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "weights.pth")
    model = source.load(tmp_path / "weights.pth").model
    assert isinstance(model, LanguageModel)
    assert difference(on_litert(model), theirs(torch.tensor(IDS)).logits[0].numpy()) <= MAX_DIFFERENCE


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_not_executed_without_trust(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"model": Trap(sprung)}, tmp_path / "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    for name in ("trap.pt", "plain.pt"):
        with pytest.raises(UnsafeModelError, match="pickle") as caught:
            source.load(tmp_path / name)
        assert "--trust" in caught.value.fix
        assert "onnx" in caught.value.fix
    assert not sprung.exists()


def test_pickled_modules_and_torchscript_lift_with_trust(tmp_path: Path) -> None:
    zoo = ZOO["lstm-stateless"]()
    torch.save(zoo.module, tmp_path / "module.pt")
    torch.jit.trace(zoo.module, torch.tensor([[1, 2, 3]])).save(str(tmp_path / "script.pt"))
    for name in ("module.pt", "script.pt"):
        with pytest.raises(UnsafeModelError):
            source.load(tmp_path / name)
    model = source.load(tmp_path / "module.pt", trust=True).model
    assert isinstance(model, LanguageModel)
    assert isinstance(model.spec, RecurrentSpec)
    assert difference(on_litert(model), zoo.scores(IDS)) <= MAX_DIFFERENCE
    assert isinstance(source.load(tmp_path / "script.pt", trust=True).model, LanguageModel)


def test_weights_without_architecture_say_what_to_do(tmp_path: Path) -> None:
    torch.save(ZOO["lstm"]().module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(SourceError, match="weights only") as caught:
        source.load(tmp_path / "weights.pt")
    assert "edgelm.load" in caught.value.fix


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_layer": 3}, "transformer.h.2.ln_1.weight is missing"),
        ({"n_layer": 1}, "has no place"),
        ({"n_layer": 10_000_000}, "too few for the 10000000 layers"),
        ({"n_embd": -1}, "n_embd = -1"),
        ({"n_embd": 24}, "allowed|is "),
    ],
)
def test_checkpoints_that_do_not_fit_their_arguments(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    nanogpt_checkpoint(tmp_path / "ckpt.pt", **arguments)
    with pytest.raises(SourceError, match=says):
        source.load(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"PK\x03\x04 cut off", pickle.dumps([1, 2, 3])])
def test_files_that_torch_cannot_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(SourceError):
        source.load(tmp_path / "broken.pt")


def test_truncated_checkpoints(tmp_path: Path) -> None:
    nanogpt_checkpoint(tmp_path / "ckpt.pt")
    whole = (tmp_path / "ckpt.pt").read_bytes()
    for size in range(1, len(whole), len(whole) // 40):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(SourceError):
            source.load(tmp_path / "cut.pt")


def test_foreign_config_beside_a_state_dict(tmp_path: Path) -> None:
    torch.save(ZOO["lstm"]().module.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UnsupportedModelError, match="mamba"):
        source.load(tmp_path / "weights.pt")


# The whole way


@pytest.mark.slow  # whole conversions with their proofs
@pytest.mark.parametrize("name", ["lstm-tied", "transformer-tutorial", "gpt", "llama"])
def test_one_command_from_torch_to_an_artifact(name: str, tmp_path: Path) -> None:
    zoo = ZOO[name]()
    conversion = edgelm.convert(loaded(zoo), output=tmp_path / "from-python", recipe="float32")
    session = open_session(artifact.load(conversion.folder).tflite)
    logits = np.stack([session.step(int(token)).copy() for token in IDS[0]])
    assert difference(logits, zoo.scores(IDS)) <= MAX_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gpt", "llama-gqa"])
def test_one_command_from_an_onnx_file(name: str, tmp_path: Path) -> None:
    path = legacy(ZOO[name](), tmp_path / "model.onnx")
    call = [str(path), "-o", str(tmp_path / "out"), "--recipe", "float32"]
    result = CliRunner().invoke(convert.command, call, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    session = open_session(artifact.load(tmp_path / "out").tflite)
    logits = np.stack([session.step(int(token)).copy() for token in IDS[0]])
    assert difference(logits, ZOO[name]().scores(IDS)) <= MAX_DIFFERENCE
