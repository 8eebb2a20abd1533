"""PyTorch: nn.LSTM and nn.Linear, in float and by `quantize_dynamic`."""

from __future__ import annotations

from collections.abc import Sequence

import job as jobs
import numpy as np
import torch
from job import Job


class Model(torch.nn.Module):
    """An LSTM of alike layers, linear layers, and the head."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        vocabulary, size = weights["embedding.weight"].shape
        self.layers, self.units = jobs.recurrent_layers(weights), weights["layers.0.recurrent.weight"].shape[1]
        self.embedding = torch.nn.Embedding(vocabulary, size)
        self.lstm = torch.nn.LSTM(size, self.units, self.layers)
        self.linear = torch.nn.Sequential(*(torch.nn.Linear(*weight.shape[::-1]) for weight, _ in jobs.linear_layers(weights)))
        self.head = torch.nn.Linear(size, vocabulary, bias="head.bias" in weights)

    def forward(
        self, token: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """One step: logits (1, 1, vocab) and the next state."""
        x, state = self.lstm(self.embedding(token), state)
        return self.head(self.linear(x)), state


def convert(job: Job) -> None:
    """The weights by PyTorch's names; int8 is made of them when they are loaded, and its size is of the packed state."""
    arrays = jobs.lstm_tensors(job.source)
    weights = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    model = Model(arrays)
    state = {"embedding.weight": weights["embedding.weight"], "head.weight": weights["embedding.weight"]}
    state |= {name: weights[name] for name in weights if name == "head.bias"}
    state |= {name.replace("hidden", "linear"): value for name, value in weights.items() if name.startswith("hidden.")}
    for n in range(model.layers):
        state |= {
            f"lstm.weight_ih_l{n}": weights[f"layers.{n}.input.weight"],
            f"lstm.weight_hh_l{n}": weights[f"layers.{n}.recurrent.weight"],
        }
        bias = weights[f"layers.{n}.input.bias"]
        state |= {f"lstm.bias_ih_l{n}": bias, f"lstm.bias_hh_l{n}": torch.zeros_like(bias)}
    model.load_state_dict(state)
    torch.save(formed(model, job.form), job.artifact)


def formed(model: Model, form: str) -> torch.nn.Module:
    """In the job's form."""
    if form == "float32":
        return model
    kinds = {torch.nn.LSTM, torch.nn.Linear}
    return torch.ao.quantization.quantize_dynamic(model.eval(), kinds, dtype=torch.qint8)


class Session:
    """Steps in inference mode."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.model = torch.load(job.artifact, weights_only=False).eval()
        self.reset()

    def reset(self) -> None:
        """See `job.Session`."""
        size = self.model.layers, 1, self.model.units
        self.state = torch.zeros(size), torch.zeros(size)

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        with torch.inference_mode():
            for token in ids:
                logits, self.state = self.model(torch.tensor([[token]]), self.state)
        return logits.numpy()[0, 0]


if __name__ == "__main__":
    jobs.run(convert, Session)
