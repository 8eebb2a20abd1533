"""Trains the two bundled reference models on a dialogue corpus.

    python training/train_reference.py keyboard-lstm --data DATA/corpora/sgd_dialogues --out build/reference
    python training/train_reference.py chat-transformer --data DATA/corpora/sgd_dialogues --out build/reference

The corpus is one utterance a line with a blank line between dialogues (`train.txt`, `dev.txt`). A training sequence is a
whole dialogue with `</s>` before, between and after its turns, so that the recurrent state and the attention cache learn to
carry the conversation. Every epoch ends with a checkpoint and a line in `NAME/training.jsonl`; an interrupted run goes on from
the last checkpoint. The best epoch on the dev split is written as float16 safetensors in edgelm's canonical weight names.

PyTorch is used here (and only here) because it has a fused bfloat16 LSTM for CPUs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

BOUNDARY = "</s>"
WORDS = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|[^\s\p{L}\p{M}\p{N}]"


@dataclass(frozen=True)
class Plan:
    """What one reference model is trained with."""

    epochs: int
    batch: int  # dialogues a step
    learning_rate: float
    warmup_steps: int
    dropout: float
    max_tokens: int  # longer dialogues are cut into pieces of this length
    seed: int = 7


PLANS = {
    "keyboard-lstm": Plan(epochs=3, batch=32, learning_rate=3e-3, warmup_steps=200, dropout=0.1, max_tokens=640),
    "chat-transformer": Plan(epochs=3, batch=16, learning_rate=3e-3, warmup_steps=200, dropout=0.05, max_tokens=512),
}


def read_dialogues(path: Path) -> list[list[str]]:
    """The dialogues of a split: lists of turns."""
    text = path.read_text(encoding="utf-8")
    return [block.split("\n") for block in text.strip().split("\n\n")]


def train_tokenizer(name: str, turns: Iterator[str]) -> Tokenizer:
    """Word-level with 10,000 types for the LSTM, byte-level BPE with 4,000 pieces for the transformer."""
    lower = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    if name == "keyboard-lstm":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        trainer = trainers.WordLevelTrainer(vocab_size=10_000, special_tokens=["<unk>", BOUNDARY], show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=4_000, special_tokens=[BOUNDARY], initial_alphabet=alphabet, show_progress=False)
    tokenizer.normalizer = lower
    tokenizer.train_from_iterator(turns, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, dialogues: list[list[str]], max_tokens: int) -> list[np.ndarray]:
    """Each dialogue as ids, `</s>` before, between and after the turns; cut at `max_tokens` + 1."""
    boundary = tokenizer.token_to_id(BOUNDARY)
    sequences = []
    for turns in dialogues:
        ids = [boundary]
        for encoding in tokenizer.encode_batch(turns, add_special_tokens=False):
            ids += [*encoding.ids, boundary]
        sequences += [np.array(ids[i : i + max_tokens + 1], np.int64) for i in range(0, len(ids) - 1, max_tokens)]
    return [s for s in sequences if len(s) > 1]


def batches(sequences: list[np.ndarray], size: int, rng: random.Random | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of like length: inputs and targets, both (batch, time), targets padded with -100."""
    jitter = (lambda s: len(s) * rng.uniform(0.9, 1.1)) if rng else len
    order = sorted(range(len(sequences)), key=lambda i: jitter(sequences[i]))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    if rng:
        rng.shuffle(groups)
    for group in groups:
        longest = max(len(sequences[i]) for i in group) - 1
        inputs = torch.zeros(len(group), longest, dtype=torch.long)
        targets = torch.full((len(group), longest), -100)
        for row, i in enumerate(group):
            ids = torch.from_numpy(sequences[i])
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        yield inputs, targets


class KeyboardLSTM(nn.Module):
    """Embedding 96 (tied), one LSTM of 512 units, projection to 96: 2.27 M parameters."""

    def __init__(self, vocab: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, 96)
        self.lstm = nn.LSTM(96, 512, batch_first=False)
        self.projection = nn.Linear(512, 96)
        self.head_bias = nn.Parameter(torch.zeros(vocab))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.orthogonal_(self.lstm.weight_hh_l0)
        with torch.no_grad():
            self.lstm.bias_ih_l0.zero_()
            self.lstm.bias_hh_l0.zero_()
            self.lstm.bias_ih_l0[512:1024] = 1.0

    def features(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.embedding(ids)).transpose(0, 1)  # (time, batch, 96)
        y, _ = self.lstm(x)
        return self.dropout(self.projection(y)).transpose(0, 1)  # (batch, time, 96)

    def spec(self) -> dict:
        return {
            "family": "recurrent", "vocab_size": self.embedding.num_embeddings, "embedding_size": 96, "cell": "lstm",
            "units": [512], "hidden": [{"size": 96, "activation": "linear", "bias": True}], "tied_head": True, "head_bias": True,
        }  # fmt: skip

    def canonical(self) -> dict[str, torch.Tensor]:
        return {
            "embedding.weight": self.embedding.weight,
            "layers.0.input.weight": self.lstm.weight_ih_l0,
            "layers.0.recurrent.weight": self.lstm.weight_hh_l0,
            "layers.0.input.bias": self.lstm.bias_ih_l0 + self.lstm.bias_hh_l0,
            "hidden.0.weight": self.projection.weight,
            "hidden.0.bias": self.projection.bias,
            "head.bias": self.head_bias,
        }


class Block(nn.Module):
    """Pre-norm Llama block: grouped-query attention with rotary positions, then SwiGLU."""

    def __init__(self, width: int, heads: int, kv_heads: int, ffn: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate = nn.Linear(width, ffn, bias=False)
        self.up = nn.Linear(width, ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, time_, width = x.shape
        h = self.attention_norm(x)

        def rotate(y: torch.Tensor) -> torch.Tensor:
            a, b = y.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(y.dtype)

        def split(y: torch.Tensor, heads: int) -> torch.Tensor:
            return y.view(batch, time_, heads, self.head_dim).transpose(1, 2)  # (batch, heads, time, head_dim)

        q, k, v = rotate(split(self.q(h), self.heads)), rotate(split(self.k(h), self.kv_heads)), split(self.v(h), self.kv_heads)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2) + mask  # (batch, heads, time, time)
        a = (scores.softmax(-1, dtype=q.dtype) @ v).transpose(1, 2).reshape(batch, time_, width)
        x = x + self.o(a)
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class ChatTransformer(nn.Module):
    """Six Llama blocks of width 192, 6 heads over 2 key/value heads, feed-forward 480, tied head: 3.0 M parameters."""

    width, layers, heads, kv_heads, ffn, theta = 192, 6, 6, 2, 480, 10_000.0

    def __init__(self, vocab: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, self.width)
        self.blocks = nn.ModuleList(Block(self.width, self.heads, self.kv_heads, self.ffn) for _ in range(self.layers))
        self.final_norm = nn.RMSNorm(self.width, eps=1e-5)
        self.head_bias = None
        self.dropout = nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                scale = (2 * self.layers) ** -0.5 if name.endswith(("o.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 if name.startswith("embedding") else scale * weight.shape[1] ** -0.5)

    def features(self, ids: torch.Tensor) -> torch.Tensor:
        half = self.width // self.heads // 2
        frequency = self.theta ** (-torch.arange(half) / half)
        angle = torch.arange(ids.shape[1])[:, None] * frequency[None]  # (time, head_dim / 2)
        cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
        mask = torch.full((ids.shape[1], ids.shape[1]), -1e4, dtype=torch.bfloat16).triu(1)
        x = self.dropout(self.embedding(ids)).bfloat16()
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.final_norm(x)

    def spec(self) -> dict:
        return {
            "family": "transformer", "vocab_size": self.embedding.num_embeddings, "width": self.width, "layers": self.layers,
            "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.width // self.heads, "ffn_size": self.ffn,
            "max_positions": 512, "position": "rotary", "rope_theta": self.theta, "norm": "rms", "norm_position": "pre",
            "norm_eps": 1e-5, "final_norm": True, "activation": "silu", "gated": True, "tied_head": True,
        }  # fmt: skip

    def canonical(self) -> dict[str, torch.Tensor]:
        named = {"embedding.weight": self.embedding.weight, "final_norm.weight": self.final_norm.weight}
        for i, block in enumerate(self.blocks):
            named |= {f"layers.{i}.{name}": weight for name, weight in block.named_parameters()}
        return named


MODELS = {"keyboard-lstm": KeyboardLSTM, "chat-transformer": ChatTransformer}


def loss_of(model: nn.Module, ids: torch.Tensor, targets: torch.Tensor, train: bool, chunk: int = 2048) -> tuple[float, int]:
    """Summed cross-entropy and token count; in training the gradient of the mean is accumulated, the head a chunk at a time."""
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(ids)
    keep = targets.reshape(-1) != -100
    hidden = features.reshape(-1, features.shape[-1])[keep]  # (tokens, width)
    wanted = targets.reshape(-1)[keep]
    leaf = hidden.detach().float().requires_grad_(train)
    total = 0.0
    for i in range(0, len(wanted), chunk):
        with torch.autocast("cpu", torch.bfloat16):
            logits = F.linear(leaf[i : i + chunk], model.embedding.weight, model.head_bias)
        loss = F.cross_entropy(logits.float(), wanted[i : i + chunk], reduction="sum")
        if train:
            (loss / len(wanted)).backward()
        total += loss.item()
    if train:
        hidden.backward(leaf.grad.to(hidden.dtype))
    return total, len(wanted)


def optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW; the matrices of the body go to Muon, which needs fewer epochs."""
    body = model.blocks if isinstance(model, ChatTransformer) else model.lstm
    matrices = [p for p in body.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    adam = torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [adam, torch.optim.Muon(matrices, lr=0.02, weight_decay=0.05)]


def evaluate(model: nn.Module, sequences: list[np.ndarray]) -> float:
    """Perplexity a token."""
    model.eval()
    with torch.no_grad():
        sums = [loss_of(model, ids, targets, train=False) for ids, targets in batches(sequences, 32, None)]
    model.train()
    return math.exp(sum(s for s, _ in sums) / sum(n for _, n in sums))


def save(model: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """`spec.json`, `weights.safetensors` (float16) and `tokenizer.json`."""
    weights = {n: w.detach().to(torch.float16).contiguous().numpy() for n, w in model.canonical().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "spec.json").write_text(json.dumps(model.spec(), indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PLANS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    plan = PLANS[arguments.name]
    folder = arguments.out / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(plan.seed)

    dialogues = read_dialogues(arguments.data / "train.txt")
    tokenizer = train_tokenizer(arguments.name, (turn for turns in dialogues for turn in turns))
    train = encode(tokenizer, dialogues, plan.max_tokens)
    dev = encode(tokenizer, read_dialogues(arguments.data / "dev.txt")[::3], plan.max_tokens)
    model = MODELS[arguments.name](tokenizer.get_vocab_size(), plan.dropout)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(len(s) - 1 for s in train)
    print(f"{parameters:,} parameters, {tokens:,} training tokens, {len(train):,} sequences", flush=True)

    if isinstance(model, ChatTransformer):  # fused element-wise kernels: twice the tokens a second
        Block.forward = torch.compile(Block.forward, dynamic=True)
    opts = optimizers(model, plan)
    peaks = [o.param_groups[0]["lr"] for o in opts]
    steps_an_epoch = -(-len(train) // plan.batch)
    total = plan.epochs * steps_an_epoch
    log = folder / "training.jsonl"
    checkpoint = folder / "checkpoint.pt"
    step, first, best = 0, 0, math.inf
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["optimizers"], strict=True):
            o.load_state_dict(s)
        step, first, best = state["step"], state["epoch"], state["best"]

    for epoch in range(first, plan.epochs):
        started, loss_sum, seen = time.time(), 0.0, 0
        torch.manual_seed(plan.seed * 1000 + epoch)
        for ids, targets in batches(train, plan.batch, random.Random(plan.seed * 1000 + epoch)):
            warm = min(1.0, (step + 1) / plan.warmup_steps)
            cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
            for o, peak in zip(opts, peaks, strict=True):
                for group in o.param_groups:
                    group["lr"] = peak * warm * cosine
                o.zero_grad()
            s, n = loss_of(model, ids, targets, train=True)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o in opts:
                o.step()
            loss_sum, seen, step = loss_sum + s, seen + n, step + 1
            if step % 100 == 0:
                rate = seen / (time.time() - started)
                print(f"epoch {epoch} step {step}/{total} train ppl {math.exp(loss_sum / seen):.2f} {rate:,.0f} tokens/s", flush=True)
        seconds = time.time() - started
        dev_perplexity = evaluate(model, dev)
        row = {
            "epoch": epoch + 1, "step": step, "train_perplexity": round(math.exp(loss_sum / seen), 3),
            "dev_perplexity": round(dev_perplexity, 3), "seconds": round(seconds, 1), "tokens_per_second": round(seen / seconds),
            "parameters": parameters, "seed": plan.seed, "threads": arguments.threads,
        }  # fmt: skip
        with log.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(row, flush=True)
        if dev_perplexity < best:
            best = dev_perplexity
            save(model, tokenizer, folder)
        state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts], "step": step, "epoch": epoch + 1}
        torch.save(state | {"best": best}, checkpoint)


if __name__ == "__main__":
    main()
