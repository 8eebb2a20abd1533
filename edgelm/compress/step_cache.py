"""Finished steps on disk, found again by the hash of everything they depend on.

A step's place is `CACHE/KEY`: `training/` while it runs (checkpoints, and what a technique keeps for itself), then `model/`, an edgelm
folder with `record.json`, which appears at once or not at all. So a changed last step does not repeat the steps before it, and an
interrupted step goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm import source
from edgelm.compress.step_data import Documents, StepData
from edgelm.errors import SourceError
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Distill, Step, step_to_dict
from edgelm.spec import spec_to_dict

MODEL, TRAINING, RECORD = "model", "training", "record.json"


@dataclass(frozen=True)
class Place:
    """Where one step of one run is kept.

    Attributes:
        folder: `CACHE/KEY`.
    """

    folder: Path

    @property
    def training(self) -> Path:
        """For checkpoints, while the step runs."""
        return self.folder / TRAINING

    def load(self, model: LanguageModel) -> tuple[LanguageModel, Mapping[str, Any]] | None:
        """What the step made of `model`, and its record; None when it is not finished, or its folder is damaged."""
        try:
            record = json.loads((self.folder / MODEL / RECORD).read_text(encoding="utf-8"))
            found = source.read_folder(self.folder / MODEL).model
        except (OSError, ValueError, SourceError):
            return None
        assert isinstance(found, LanguageModel)  # edgelm's own folders hold nothing else
        changed = {"weights": found.weights, "encodings": found.encodings, "scales": found.scales, "ranges": found.ranges}
        return model.replace(spec=found.spec, **changed), record

    def store(self, model: LanguageModel, record: Mapping[str, Any]) -> None:
        """Keeps a finished step and drops its checkpoints."""
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        source.write_folder(model.replace(tokenizer=None), self.folder / MODEL, {RECORD: text.encode("utf-8")})
        shutil.rmtree(self.training, ignore_errors=True)

    def clear(self) -> None:
        """Forgets the step."""
        shutil.rmtree(self.folder, ignore_errors=True)


def place_of(cache: Path, model: LanguageModel, step: Step, data: StepData) -> Place:
    """The place of a step that is applied to a model with that text."""
    parts = [importlib.metadata.version("edgelm"), model_sha256(model), step_to_dict(step)]
    parts += [documents_sha256(data.train), documents_sha256(data.valid), model_sha256(data.source)]
    if isinstance(step, Distill) and step.teacher != "source":
        parts.append(source.content_sha256(source.place_of(step.teacher)))
    return Place(cache / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32])


def model_sha256(model: LanguageModel) -> str:
    """Of the spec, the weights and how they are stored; names and origins do not count."""
    storage = {name: encoding.value for name, encoding in model.encodings.items()}
    header = [spec_to_dict(model.spec), storage, {site: list(pair) for site, pair in model.ranges.items()}]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for arrays in (model.weights, model.scales):
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()


def documents_sha256(documents: Documents) -> str:
    """Of the token ids and where documents end."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(document, np.int32).data)
    return digest.hexdigest()
