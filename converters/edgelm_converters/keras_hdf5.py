"""Reads HDF5 files that may be hostile: plain arrays only, nothing outside the file, no more bytes than the file can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import SourceError, optional_package

MAX_RATIO = 20  # trained weights compress to about 90 %; freshly zeroed ones are rare and small
_SLACK = 16 << 20  # bytes: small models may be all zeros

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, EOFError)
"""What h5py and a walk over a damaged config raise."""


def h5py() -> Any:
    """The h5py module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return optional_package("h5py", "reading Keras files", "keras")


@dataclass(frozen=True)
class Group:
    """A group of an HDF5 file; follows hard links only, since soft and external links may leave the file."""

    handle: Any

    def child(self, name: str) -> Group | None:
        """The group `name` inside, or None."""
        link = self.handle.get(name, getlink=True)
        if link is None:
            return None
        self._refuse_link(name, link)
        found = self.handle[name]
        return Group(found) if isinstance(found, h5py().Group) else None

    def numbered(self, stem: str, rank: int) -> Group | None:
        """The group of that rank among "dense", "dense_1", "dense_3", ..., or None."""
        matches = (re.fullmatch(rf"{re.escape(stem)}(?:_(\d{{1,6}}))?", name) for name in self.handle)
        found = sorted((int(match[1] or 0), match[0]) for match in matches if match)
        return self.child(found[rank][1]) if rank < len(found) else None

    def children_in_order(self, stems: list[str]) -> list[Group]:
        """One group for each stem; the n-th mention of a stem is the group of rank n.

        Raises:
            SourceError: One is missing.
        """
        found = [self.numbered(stem, stems[:i].count(stem)) for i, stem in enumerate(stems)]
        if None in found:
            raise SourceError("the weights of a recurrent cell are not in the file", fix="copy or save the model again")
        return [group for group in found if group is not None]

    def variables(self) -> list[Any]:
        """The datasets "vars/0", "vars/1", ..."""
        inside = self.child("vars")
        names = sorted((name for name in inside.handle if name.isdecimal()), key=int) if inside else []
        return [inside.dataset(name) for name in names] if inside else []

    def dataset(self, path: str) -> Any:
        """The dataset at a path such as "lstm/kernel:0".

        Raises:
            SourceError: There is none, or it is not stored in this file.
        """
        *folders, name = [part for part in path.split("/") if part]
        group = self
        for folder in folders:
            inside = group.child(folder)
            if inside is None:
                raise SourceError(f"array {path!r} is not in the file", fix="copy or save the model again")
            group = inside
        group._refuse_link(name, group.handle.get(name, getlink=True))
        found = group.handle[name]
        if not isinstance(found, h5py().Dataset) or found.is_virtual or found.external:
            raise SourceError(f"array {path!r} is not stored inside the file", fix="save the model again")
        return found

    def text_list(self, attribute: str) -> list[str]:
        """A list of texts; Keras cuts long ones into `attribute0`, `attribute1`, ..."""
        values = self.handle.attrs.get(attribute)
        if values is not None:
            return [_text(value) for value in values]
        found: list[str] = []
        number = 0
        while f"{attribute}{number}" in self.handle.attrs:
            found += [_text(value) for value in self.handle.attrs[f"{attribute}{number}"]]
            number += 1
        return found

    @staticmethod
    def _refuse_link(name: str, link: Any) -> None:
        if link is not None and not isinstance(link, h5py().HardLink):
            raise SourceError(f"{name!r} is a link to somewhere else, which no Keras file has: refused")


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


class Arrays:
    """Reads arrays up to a budget that follows from the size of the file.

    Args:
        file_size: Bytes of the HDF5 file.
    """

    def __init__(self, file_size: int) -> None:
        self._left = file_size * MAX_RATIO + _SLACK

    def read(self, dataset: Any) -> NDArray[Any]:
        """One array, in the type it is stored in; bfloat16 becomes float32.

        Raises:
            SourceError: It is no array of numbers, or is larger than the file can hold.
        """
        self._left -= int(dataset.size) * int(dataset.dtype.itemsize)
        if self._left < 0:
            raise SourceError(f"array {dataset.name!r} {dataset.shape} is larger than the file can hold: refused")
        values: NDArray[Any] = dataset[()]
        if dataset.attrs.get("dtype") == "bfloat16" and values.dtype.itemsize == 2:
            return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if not isinstance(values, np.ndarray | np.generic) or values.dtype.kind not in "fiu":
            raise SourceError(f"array {dataset.name!r} holds no numbers", fix="copy or save the model again")
        return np.asarray(values)
