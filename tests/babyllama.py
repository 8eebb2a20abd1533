"""A published Llama of 0.9 M parameters (llama2.c's first format), for tests of whole models; see its SOURCE.txt."""

from __future__ import annotations

from pathlib import Path

from edgelm.model import LanguageModel
from edgelm_converters import llama2c


def load(folder: Path) -> LanguageModel:
    """The model in `folder`."""
    model = llama2c.read(folder / "model5000.bin", name="babyllama").model
    if not isinstance(model, LanguageModel):
        raise TypeError(f"{folder} holds no language model")
    return model
