"""LiteRT's own profiler, reached through its C API: what each op of a signature took, also those inside XNNPACK.

The Python interpreter has no door to it. The C library of the same wheel has: a compiled model with profiling switched on keeps an event
for each op it ran. Ops of TFLite's own kernels carry their place in the graph; XNNPACK's carry the name of the kernel and their place
among XNNPACK's operators. XNNPACK gives whole microseconds, cut off: what takes less shows as 0.

Structures and calls are those of LiteRT 2.1.0 (`litert/c/litert_profiler_event.h`, `litert_compiled_model.h`).
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import RuntimeFailure

CPU = 1
WRITE = 1
WHOLE, OWN_KERNEL, XNNPACK_KERNEL = 1, 2, 8
"""Kinds of events: a stage of a call, an op of TFLite's own, and one inside a delegate."""


class _Layout(ctypes.Structure):
    _fields_ = (("rank", c_uint, 7), ("has_strides", c_uint, 1), ("dimensions", c_int32 * 8), ("strides", c_uint32 * 8))


class _TensorType(ctypes.Structure):
    _fields_ = (("element_type", c_int), ("layout", _Layout))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", c_char_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory_before", c_size_t * 3),
        ("memory_after", c_size_t * 3),
        ("place", c_uint64),
        ("subgraph", c_uint64),
        ("source", c_int),
    )


@dataclass(frozen=True)
class KernelEvent:
    """One kernel of one call.

    Attributes:
        kernel: Its name: of TFLite's own kernels the op's, such as `EMBEDDING_LOOKUP`; of XNNPACK such as `Sigmoid (NC)`.
        place: Of an own kernel: the op's number in its subgraph; of XNNPACK's: its number among the operators of one delegate.
        us: What it took, whole microseconds.
        in_xnnpack: XNNPACK ran it.
    """

    kernel: str
    place: int
    us: int
    in_xnnpack: bool


@dataclass(frozen=True)
class ProfiledCall:
    """One call: its kernels in the order they ran, and what the interpreter took for all of it, us."""

    kernels: tuple[KernelEvent, ...]
    us: int


class OpProfiler:
    """A model compiled with profiling on.

    Args:
        library: `libLiteRt.so` 2.1.0.
        model: A .tflite file with signatures.
        threads: Of the runtime.

    Raises:
        RuntimeFailure: The library refuses the model.
    """

    def __init__(self, library: Path, model: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._environment, self._model, self._options, self._compiled = c_void_p(), c_void_p(), c_void_p(), c_void_p()
        self._call("LiteRtCreateEnvironment", 0, None, byref(self._environment))
        self._call("LiteRtCreateModelFromFile", str(model).encode(), byref(self._model))
        self._call("LiteRtCreateOptions", byref(self._options))
        self._call("LiteRtSetOptionsHardwareAccelerators", self._options, CPU)
        self._set("Runtime", "LiteRtSetRuntimeOptionsEnableProfiling", c_bool(True))
        self._set("Cpu", "LiteRtSetCpuOptionsNumThread", c_int(threads))
        self._call("LiteRtCreateCompiledModel", self._environment, self._model, self._options, byref(self._compiled))
        self._profiler = c_void_p()
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, byref(self._profiler))

    def open(self, signature: int) -> None:
        """Makes buffers of zeros for the signature of this number, which `run` runs from now on."""
        self._index = c_size_t(signature)
        self._signature = c_void_p()
        self._call("LiteRtGetModelSignature", self._model, self._index, byref(self._signature))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")

    def run(self) -> ProfiledCall:
        """Runs the signature once."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)  # a reset stops it
        inputs, outputs = c_size_t(len(self._inputs)), c_size_t(len(self._outputs))
        self._call("LiteRtRunCompiledModel", self._compiled, self._index, inputs, self._inputs, outputs, self._outputs)
        count = c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        kernels = tuple(
            KernelEvent(event.tag.decode(), int(event.place), int(event.elapsed_us), event.kind == XNNPACK_KERNEL)
            for event in events
            if event.kind in (OWN_KERNEL, XNNPACK_KERNEL) and not event.tag.startswith(b"TfLiteXNNPackDelegate")
        )
        return ProfiledCall(kernels, next(int(event.elapsed_us) for event in events if event.kind == WHOLE and event.tag == b"Invoke"))

    def _set(self, kind: str, setter: str, value: Any) -> None:
        """One of the options that travel as opaque payloads."""
        options, payload = c_void_p(), c_void_p()
        self._call(f"LiteRtCreate{kind}Options", byref(options))
        self._call(f"LiteRtFind{kind}Options", options, byref(payload))
        self._call(setter, payload, value)
        self._call("LiteRtAddOpaqueOptions", self._options, options)

    def _buffers(self, side: str) -> Any:
        """Buffers of zeros for all inputs or outputs; ids and positions are then 0, and a mask hides nothing."""
        count = c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", self._signature, byref(count))
        buffers = (c_void_p * count.value)()
        for place in range(count.value):
            tensor, kind, wanted, buffer = c_void_p(), _TensorType(), c_void_p(), c_void_p()
            self._call(f"LiteRtGetSignature{side}TensorByIndex", self._signature, c_size_t(place), byref(tensor))
            self._call("LiteRtGetRankedTensorType", tensor, byref(kind))
            self._call(f"LiteRtGetCompiledModel{side}BufferRequirements", self._compiled, self._index, c_size_t(place), byref(wanted))
            self._call("LiteRtCreateManagedTensorBufferFromRequirements", self._environment, byref(kind), wanted, byref(buffer))
            self._clear(buffer)
            buffers[place] = buffer
        return buffers

    def _clear(self, buffer: c_void_p) -> None:
        address, size = c_void_p(), c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", buffer, byref(size))
        self._call("LiteRtLockTensorBuffer", buffer, byref(address), WRITE)
        ctypes.memset(address, 0, size.value)
        self._call("LiteRtUnlockTensorBuffer", buffer)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeFailure(f"{name} of LiteRT's C library failed with status {status}", fix="edgelm doctor")
