"""Decoder Transformers in plain torch, written the way people write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_sizes import HEAD_DIM, HEADS, POSITIONS, VOCAB, WIDTH


class SinusoidalPositions(nn.Module):
    """The table of the PyTorch tutorial, (max_len, 1, d_model) or batch first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        position = torch.arange(POSITIONS).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        table = torch.zeros(POSITIONS, 1, WIDTH)
        table[:, 0, 0::2] = torch.sin(position * div_term)
        table[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", table.transpose(0, 1) if batch_first else table)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.pe[:, : x.size(1)] if self.batch_first else self.pe[: x.size(0)])


class EncoderLM(nn.Module):
    """nn.TransformerEncoder with a causal mask.

    Args:
        positions: `learned` or `sinusoidal`.
        mask: `constant` (a buffer that is cut), `computed` (generate_square_subsequent_mask in forward), `triu` (bool) or `is_causal`.
        scaled: Embeddings times sqrt(d).
        final_norm: The encoder's `norm`.
    """

    def __init__(
        self,
        *,
        norm_first: bool = False,
        activation: str = "relu",
        positions: str = "learned",
        mask: str = "computed",
        scaled: bool = False,
        final_norm: bool = False,
        tied: bool = False,
        head_bias: bool = True,
        last: bool = False,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH) if positions == "learned" else SinusoidalPositions(batch_first=True)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.1, activation, batch_first=True, norm_first=norm_first)
        norm = nn.LayerNorm(WIDTH) if final_norm else None
        self.encoder = nn.TransformerEncoder(layer, layers, norm=norm, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=head_bias)
        if tied:
            self.head.weight = self.tokens.weight
        self.mask_kind, self.scaled, self.last = mask, scaled, last
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(POSITIONS))

    def causal_mask(self, time: int, device: torch.device) -> Tensor:
        if self.mask_kind == "constant":
            return self.mask[:time, :time]
        if self.mask_kind == "triu":
            return torch.triu(torch.ones(time, time, dtype=torch.bool, device=device), diagonal=1)
        return nn.Transformer.generate_square_subsequent_mask(time, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        time = ids.size(1)
        x = self.tokens(ids) * math.sqrt(WIDTH) if self.scaled else self.tokens(ids)
        sinusoidal = isinstance(self.positions, SinusoidalPositions)
        x = self.positions(x) if sinusoidal else x + self.positions(torch.arange(time, device=ids.device))
        x = self.encoder(x, mask=self.causal_mask(time, ids.device), is_causal=self.mask_kind == "is_causal")
        return self.head(x[:, -1] if self.last else x)


class TutorialTransformer(nn.Transformer):
    """As PyTorch's word_language_model example writes it: the encoder of an nn.Transformer, (time, batch), log-probabilities."""

    def __init__(self) -> None:
        super().__init__(d_model=WIDTH, nhead=HEADS, dim_feedforward=24, num_encoder_layers=2, num_decoder_layers=1)
        self.decoder = nn.Linear(WIDTH, VOCAB)
        self.pos_encoder = SinusoidalPositions(batch_first=False)
        self.input_emb = nn.Embedding(VOCAB, WIDTH)

    def forward(self, src: Tensor) -> Tensor:
        mask = torch.log(torch.tril(torch.ones(len(src), len(src), device=src.device)))
        src = self.pos_encoder(self.input_emb(src) * math.sqrt(WIDTH))
        return functional.log_softmax(self.decoder(self.encoder(src, mask=mask)), dim=-1)


class GPTBlock(nn.Module):
    """A block of nanoGPT: fused c_attn, scaled_dot_product_attention or attention by hand with a `bias` buffer of ones."""

    def __init__(self, bias: bool, flash: bool, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=bias), nn.LayerNorm(WIDTH, bias=bias)
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH, bias=bias)
        self.mlp_proj = nn.Linear(4 * WIDTH, WIDTH, bias=bias)
        self.flash, self.activation = flash, activation
        if not flash:
            self.register_buffer("bias", torch.tril(torch.ones(POSITIONS, POSITIONS)).view(1, 1, POSITIONS, POSITIONS))

    def attention(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, time, width = x.size()
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (t.view(batch, time, HEADS, HEAD_DIM).transpose(1, 2) for t in (q, k, v))
        before = 0
        if past is not None:
            before = past[0].size(2)
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        if self.flash:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            total = before + time
            scores = scores.masked_fill(self.bias[:, :, before:total, :total] == 0, float("-inf"))
            y = functional.softmax(scores, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(batch, time, width)
        return self.c_proj(y), (k, v)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, present = self.attention(self.ln_1(x), past)
        x = x + attended
        return x + self.mlp_proj(self.activation(self.c_fc(self.ln_2(x)))), present


def new_gelu(x: Tensor) -> Tensor:
    """The tanh form, written out as in early nanoGPT."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class GPT(nn.Module):
    """nanoGPT: tied head without bias, learned positions; `forward(idx)` gives logits, with `last` for the last position only."""

    def __init__(
        self,
        *,
        bias: bool = True,
        flash: bool = True,
        tied: bool = True,
        last: bool = False,
        activation: Callable[[Tensor], Tensor] = functional.gelu,
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList([GPTBlock(bias, flash, activation) for _ in range(2)])
        self.ln_f = nn.LayerNorm(WIDTH, bias=bias)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.wte.weight = self.lm_head.weight
        self.last = last

    def forward(self, idx: Tensor) -> Tensor:
        position = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(position))
        for block in self.h:
            x, _ = block(x)
        x = self.ln_f(x)
        return self.lm_head(x[:, [-1], :] if self.last else x)


class CachedGPT(GPT):
    """The same with caches: `forward(idx, past) -> (logits, present)`, a (k, v) a block, each (batch, heads, time, head_dim)."""

    def forward(self, idx: Tensor, past: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        before = past[0][0].size(2)
        position = torch.arange(before, before + idx.size(1), dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(position)
        present = []
        for block, cache in zip(self.h, past, strict=True):
            x, new = block(x, cache)
            present.append(new)
        return self.lm_head(self.ln_f(x)), present


class RMSNorm(nn.Module):
    def __init__(self, size: int = WIDTH, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate_half(x: Tensor) -> Tensor:
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


class Rotary(nn.Module):
    """Rotary positions.

    Args:
        style: `halves` (Hugging Face), `interleaved` (even and odd columns, stacked again), `table` (cos and sin cut from buffers, pairs as
            in llama2.c) or `partial` (halves over the leading half of each head).
    """

    def __init__(self, style: str, theta: float = 10000.0) -> None:
        super().__init__()
        self.style, self.size = style, HEAD_DIM // 2 if style == "partial" else HEAD_DIM
        frequencies = 1.0 / theta ** (torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.outer(torch.arange(POSITIONS).float(), frequencies)
        self.register_buffer("inv_freq", frequencies)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turns x (batch, heads, time, head_dim)."""
        if self.style == "table":
            cos, sin = self.cos[positions], self.sin[positions]
        else:
            angles = positions.float()[:, None] * self.inv_freq[None, :]
            cos, sin = angles.cos(), angles.sin()
        if self.style == "halves":
            return x * torch.cat((cos, cos), -1) + rotate_half(x) * torch.cat((sin, sin), -1)
        if self.style == "partial":
            turned, rest = x[..., : self.size], x[..., self.size :]
            turned = turned * torch.cat((cos, cos), -1) + rotate_half(turned) * torch.cat((sin, sin), -1)
            return torch.cat((turned, rest), -1)
        if self.style == "table":
            even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        else:
            even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class LlamaBlock(nn.Module):
    def __init__(self, kv_heads: int, rotary: str, norm: Callable[[], nn.Module], qk_norm: bool, by_hand: bool) -> None:
        super().__init__()
        self.kv_heads, self.by_hand = kv_heads, by_hand
        self.attention_norm, self.ffn_norm = norm(), norm()
        self.wq = nn.Linear(WIDTH, HEADS * HEAD_DIM, bias=False)
        self.wk = nn.Linear(WIDTH, kv_heads * HEAD_DIM, bias=False)
        self.wv = nn.Linear(WIDTH, kv_heads * HEAD_DIM, bias=False)
        self.wo = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.w1, self.w3 = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24, bias=False)
        self.w2 = nn.Linear(24, WIDTH, bias=False)
        self.rotary = Rotary(rotary)
        self.q_norm, self.k_norm = (RMSNorm(HEAD_DIM) if qk_norm else nn.Identity() for _ in range(2))

    def repeated(self, x: Tensor) -> Tensor:
        """(batch, kv_heads, time, head_dim) -> (batch, heads, time, head_dim), as Hugging Face's repeat_kv."""
        if self.kv_heads == HEADS:
            return x
        batch, heads, time, size = x.shape
        return x[:, :, None].expand(batch, heads, HEADS // heads, time, size).reshape(batch, HEADS, time, size)

    def forward(self, x: Tensor, positions: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        normed = self.attention_norm(x)
        batch, time, _ = x.shape
        q, k, v = (w(normed).view(batch, time, -1, HEAD_DIM).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = self.rotary(self.q_norm(q), positions), self.rotary(self.k_norm(k), positions)
        before = 0
        if past is not None:
            before = past[0].size(2)
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        mask = torch.full((time, before + time), float("-inf"), device=x.device).triu(diagonal=before + 1)
        if self.by_hand:
            scores = torch.matmul(q, self.repeated(k).transpose(2, 3)) / math.sqrt(HEAD_DIM) + mask
            y = torch.matmul(functional.softmax(scores.float(), dim=-1).type_as(q), self.repeated(v))
        else:
            y = functional.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v), attn_mask=mask)
        x = x + self.wo(y.transpose(1, 2).reshape(batch, time, -1))
        normed = self.ffn_norm(x)
        return x + self.w2(functional.silu(self.w1(normed)) * self.w3(normed)), (k, v)


class Llama(nn.Module):
    """A Llama in plain torch."""

    def __init__(
        self,
        *,
        kv_heads: int = HEADS,
        rotary: str = "halves",
        norm: Callable[[], nn.Module] = RMSNorm,
        qk_norm: bool = False,
        by_hand: bool = True,
        tied: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([LlamaBlock(kv_heads, rotary, norm, qk_norm, by_hand) for _ in range(2)])
        self.norm = norm()
        self.output = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.output.weight = self.tok_embeddings.weight
        self.last = last

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x, _ = layer(x, positions, None)
        x = self.norm(x)
        return self.output(x[:, -1, :] if self.last else x)


class CachedLlama(Llama):
    """The same with flat caches: `forward(tokens, k0, v0, k1, v1) -> (logits, k0, v0, k1, v1)`."""

    def forward(self, tokens: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        before = past[0].size(2)
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x, present = self.tok_embeddings(tokens), []
        for number, layer in enumerate(self.layers):
            x, new = layer(x, positions, (past[2 * number], past[2 * number + 1]))
            present.extend(new)
        return self.output(self.norm(x)), *present
