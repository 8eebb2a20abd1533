"""What an artifact says of itself: `manifest.json`, the same for the same input, seed and tool versions.

The copy inside `model.tflite` lacks the `figures`, which are measured on the finished file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from edgelm.artifact import SCHEMA_VERSION
from edgelm.model import LanguageModel, OpaqueGraph
from edgelm.recipe import Recipe
from edgelm.spec import Encoding, spec_to_dict
from edgelm.tflite import reader, versions

TOOLS = ("edgelm", "ai-edge-litert", "flatbuffers", "numpy", "tokenizers", "tensorflow", "keras", "tf-keras", "onnx", "onnxruntime")


def build(
    model: LanguageModel | OpaqueGraph, recipe: Recipe, target: str, tflite: bytes, encodings: Mapping[str, Encoding]
) -> dict[str, Any]:
    """The manifest of a lowered model, as plain JSON values.

    Args:
        model: What was lowered.
        recipe: How.
        target: Name of the device profile.
        tflite: The flatbuffer, before the manifest goes into it.
        encodings: How each weight really is stored.
    """
    with ThreadPoolExecutor(1) as beside:  # hashing takes as long as reading, and needs no interpreter
        digest = beside.submit(hashlib.sha256, tflite)
        content = reader.outline(tflite)
    return _of_model(model, recipe, target, encodings) | {
        "signatures": {s.name: {"inputs": _tensors(s.inputs), "outputs": _tensors(s.outputs)} for s in content.signatures},
        "flatbuffer_sha256": digest.result().hexdigest(),
        "op_versions": versions.required_versions(content.op_versions),
        "minimum_runtime": next((runtime for runtime in versions.RUNTIMES if runs_on(content, runtime)), None),
    }


def build_export(
    model: LanguageModel, recipe: Recipe, target: str, files: Mapping[str, bytes], encodings: Mapping[str, Encoding]
) -> dict[str, Any]:
    """The manifest of a model in another framework's format, as plain JSON values.

    Args:
        model: What was written.
        recipe: How it was rounded.
        target: `onnx` or `saved-model`.
        files: Name -> content of that format's files.
        encodings: How each weight really is stored.
    """
    return _of_model(model, recipe, target, encodings) | {
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    }


def _of_model(model: LanguageModel | OpaqueGraph, recipe: Recipe, target: str, encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """What is said of every artifact."""
    origin = model.origin
    return {
        "schema_version": SCHEMA_VERSION,
        "name": model.name,
        "spec": spec_to_dict(model.spec) if isinstance(model, LanguageModel) else None,
        "parameters": model.parameters if isinstance(model, LanguageModel) else None,
        "recipe": recipe.to_dict(),
        "target": target,
        "encodings": {name: encoding.value for name, encoding in sorted(encodings.items())},
        "source": {"sha256": model.source_sha256} | (asdict(origin) if origin else {}),
        "tokenizer_sha256": hashlib.sha256(model.tokenizer.encode("utf-8")).hexdigest() if model.tokenizer else None,
        "tools": {tool: version for tool in TOOLS if (version := _version(tool))},
    }


def runs_on(content: reader.Outline, runtime: str) -> bool:
    """Whether a runtime has every op version the file declares."""
    required = versions.required_versions(content.op_versions)
    return not (content.custom_ops or versions.unsupported_ops(runtime, required))


def _tensors(named: Mapping[str, reader.TensorInfo]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for name, tensor in named.items()}


def _version(tool: str) -> str | None:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return None
