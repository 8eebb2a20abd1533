"""Calls of a signature as the runner's files hold them: the raw bytes of all its tensors, one after the other, in the file's order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import RuntimeFailure
from edgelm.tflite import reader
from edgelm.tflite.reader import SignatureInfo

Tensors = Mapping[str, NDArray[Any]]


def find(model: Path, name: str) -> SignatureInfo:
    """A signature of a .tflite file.

    Raises:
        RuntimeFailure: The file cannot be opened, or has no such signature.
        ArtifactError: It is damaged.
    """
    try:
        found = _signatures(model, model.stat().st_mtime_ns)
    except OSError as error:
        raise RuntimeFailure(f"{model} cannot be read: {error.strerror}") from error
    if name not in found:
        raise RuntimeFailure(f"{model} has no signature {name!r}", allowed=", ".join(found))
    return found[name]


@lru_cache(maxsize=8)
def _signatures(model: Path, _modified: int) -> Mapping[str, SignatureInfo]:
    return {signature.name: signature for signature in reader.outline(model.read_bytes()).signatures}


def pack(call: Tensors, signature: SignatureInfo) -> bytes:
    """All inputs of one call.

    Raises:
        RuntimeFailure: An input is missing, or one has another name, shape or dtype than the file states.
    """
    if call.keys() != signature.inputs.keys():
        raise RuntimeFailure(f"signature {signature.name} was given {', '.join(call) or 'nothing'}", allowed=", ".join(signature.inputs))
    for name, tensor in signature.inputs.items():
        given = call[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise RuntimeFailure(
                f"input {name} of {signature.name} is {given.dtype} {given.shape}", allowed=f"{tensor.dtype} {tuple(tensor.shape)}"
            )
    return b"".join(call[name].tobytes() for name in signature.inputs)


def unpack(data: bytes, signature: SignatureInfo, count: int) -> list[dict[str, NDArray[Any]]]:
    """The outputs of `count` calls, as read-only views of `data`.

    Raises:
        RuntimeFailure: `data` is not as long as they are.
    """
    expected = count * sum(int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize for tensor in signature.outputs.values())
    if len(data) != expected:
        raise RuntimeFailure(f"the native runner left {len(data)} bytes of outputs of {signature.name}", allowed=f"{expected} bytes")
    calls, start = [], 0
    for _ in range(count):
        call: dict[str, NDArray[Any]] = {}
        for name, tensor in signature.outputs.items():
            call[name] = np.frombuffer(data, tensor.dtype, int(np.prod(tensor.shape)), start).reshape(tensor.shape)
            start += call[name].nbytes
        calls.append(call)
    return calls
