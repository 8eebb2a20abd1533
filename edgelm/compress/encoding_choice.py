"""Which encoding a step gives which matrix; the same for all steps that name one for layers, table and head."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Protocol

from edgelm.spec import Encoding


class Wanted(Protocol):
    """A step that names encodings."""

    @property
    def weights(self) -> Encoding:
        """Of the matrices of the layers."""

    @property
    def embedding(self) -> Encoding:
        """Of the table, and of a tied head."""

    @property
    def head(self) -> Encoding:
        """Of an untied head and the dense layers before it."""

    @property
    def keep_float(self) -> tuple[str, ...]:
        """Patterns of names that stay float32."""


def chosen_encoding(name: str, step: Wanted) -> Encoding:
    """The encoding a step gives the matrix with that canonical name.

    Dense layers between the recurrent stack and the head count as part of the head: they are small, and their errors reach the logits
    directly. Position tables stay float32.
    """
    if name == "positions.weight" or any(fnmatchcase(name, pattern) for pattern in step.keep_float):
        return Encoding.FLOAT32
    if name.startswith(("head.", "hidden.")):
        return step.head
    return step.embedding if name == "embedding.weight" else step.weights
