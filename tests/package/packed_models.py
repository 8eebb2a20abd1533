"""Artifacts without their report, made in a moment: lowered and packed, neither proven nor judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime import tiny_graphs
from tiny_models import LINES, write_model

from edgelm import artifact, manifest, pipeline, recipe, source
from edgelm.model import LanguageModel, OpaqueGraph
from edgelm.spec import Encoding
from edgelm.text.tokenizer import train_word_level


def lowered(model: LanguageModel, folder: Path, recipe_name: str = "int8", **changes: Any) -> Path:
    """A model as an artifact; `changes` go into its manifest."""
    chosen = recipe.load(recipe_name)
    built = pipeline.build(model, chosen, cache=None)
    facts = manifest.build(built.model, chosen, "android-arm64", built.tflite, built.encodings) | changes
    return _written(folder, built.tflite, facts, model.tokenizer)


def tiny(folder: Path, kind: str = "recurrent", **changes: Any) -> Path:
    """A tiny model with random weights and a word tokenizer."""
    return lowered(write_model(folder.with_name(f"{folder.name}-source"), kind).replace(name=folder.name), folder, **changes)


def bundled(name: str, folder: Path, recipe_name: str = "int8") -> Path:
    """One of the bundled models."""
    model = source.load(name).model
    assert isinstance(model, LanguageModel)
    return lowered(model, folder, recipe_name)


def graph(folder: Path, *, last_only: bool, tokenizer: bool = False, time: int = 8) -> Path:
    """A graph that was converted as it is: one signature `forward`."""
    tflite = tiny_graphs.forward_bytes(tiny_graphs.weights(), time, last_only=last_only, probabilities=last_only)
    text = train_word_level(LINES, vocab_size=tiny_graphs.VOCAB).to_json() if tokenizer else None
    model = OpaqueGraph(folder, "keras", time, tiny_graphs.VOCAB, last_only, last_only, name=folder.name, tokenizer=text)
    facts = manifest.build(model, recipe.load("float32"), "android-arm64", tflite, {"graph": Encoding.FLOAT32})
    return _written(folder, tflite, facts, text)


def _written(folder: Path, tflite: bytes, facts: dict[str, Any], tokenizer: str | None) -> Path:
    artifact.write(folder, {artifact.MODEL: artifact.pack(tflite, facts, tokenizer), artifact.MANIFEST: artifact.encode_json(facts)})
    return folder
