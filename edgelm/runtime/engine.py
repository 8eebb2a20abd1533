"""A typed, zero-copy view of a .tflite file on one of the two Python runtimes.

Both runtimes ship the same Python `Interpreter`; its public methods reach only subgraph 0, and its `SignatureRunner` copies every
input and output (four times slower with caches). The pybind wrapper below it takes a subgraph index everywhere in both runtimes,
so that one interpreter serves all signatures: the file is read once and its buffers are shared. `Engine` is the only place that
touches that wrapper; both runtimes are pinned.

`AllocateTensors(-1)` comes first in any case: it applies XNNPACK, which packs the weights of *every* subgraph. tflite-runtime
runs other signatures without XNNPACK when it is left out. The Python runtimes have no option for an XNNPACK weight cache file,
so each signature holds its own packed copy here; apps set it through the C API (`LiteRtSetCpuOptionsXnnPackWeightCachePath`).

A file is verified before it is mapped: neither runtime verifies what it maps, and a truncated file would end the process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ArtifactError, MissingDependencyError, RuntimeFailure
from edgelm.native_output import silenced
from edgelm.runtime.failures import DAMAGED, translated
from edgelm.tflite import reader

RUNTIMES: Mapping[str, str] = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
"""Runtime (the name of its package) -> module of its Interpreter."""

VERIFIER = "ai-edge-litert"
"""The runtime that verifies a model given as bytes before it reads it."""

Tensor = NDArray[Any]


@dataclass(frozen=True)
class SignatureShapes:
    """Names and shapes of one signature, as the file states them.

    Attributes:
        inputs: Input name -> shape.
        outputs: Output name -> shape.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


class Call:
    """An allocated signature: write `inputs`, `invoke()`, read `outputs`.

    The arrays are the runtime's own tensors, which stay where they are: shapes don't change after the allocation. Graphs with
    dynamic tensors (some WHILE loops) are the exception: the runtime plans part of them while running and may move any tensor. For
    them the arrays belong to the host and each `invoke` copies them; edgelm's own graphs have none.

    Args:
        name: Name of the signature.
        runtime: Name and version, for errors.
        interpreter: Its Interpreter; the arrays keep it alive.
        subgraph: Index of its subgraph, allocated.
        inputs: Input name -> tensor index.
        outputs: Output name -> tensor index.

    Attributes:
        name: Name of the signature.
        inputs: Input name -> array, zeros at first; writing to it is all it takes.
        outputs: Output name -> array; its values hold until the next `invoke()`.
        zero_copy: The arrays are the runtime's own tensors.
    """

    def __init__(
        self, name: str, runtime: str, interpreter: Any, subgraph: int, inputs: Mapping[str, int], outputs: Mapping[str, int]
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._interpreter = interpreter
        self._subgraph = subgraph
        self._inputs, self._outputs = inputs, outputs
        self._invoke = interpreter._interpreter.Invoke
        self.inputs: Mapping[str, Tensor] = {key: self._view(index) for key, index in inputs.items()}
        for tensor in self.inputs.values():
            tensor[...] = 0
        self.outputs: Mapping[str, Tensor] = {}
        try:
            self.outputs = {key: self._view(index) for key, index in outputs.items()}
            self.zero_copy = True
        except ValueError:  # the data of a dynamic tensor is null before the first run
            self.zero_copy = False
            self._run()
            self.inputs = {key: self._view(index).copy() for key, index in inputs.items()}
            self.outputs = {key: self._view(index).copy() for key, index in outputs.items()}

    def _view(self, index: int) -> Tensor:
        view: Tensor = self._interpreter._interpreter.tensor(self._interpreter, index, self._subgraph)
        return view

    def invoke(self) -> None:
        """Runs the signature.

        Raises:
            RuntimeFailure: The runtime failed, for example at an id outside of a table.
        """
        if self.zero_copy:
            self._run()
            return
        for key, index in self._inputs.items():
            self._view(index)[...] = self.inputs[key]
        self._run()
        for key, index in self._outputs.items():
            self.outputs[key][...] = self._view(index)

    def _run(self) -> None:
        try:
            self._invoke(self._subgraph)
        except (ValueError, RuntimeError) as error:
            raise translated(str(error), f"running signature {self.name!r}", self._runtime) from error


class Engine:
    """One model on one runtime.

    Args:
        model: A .tflite file, or its bytes.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        threads: Threads of the runtime's own pool.

    Attributes:
        runtime: Name and version, such as `ai-edge-litert 2.1.0`.
        signatures: Signature name -> names and shapes.
        call_class: What `call` makes; a subclass of `Call` can watch the calls.

    Raises:
        RuntimeFailure: The file is missing, damaged, or holds something that the runtime lacks; names the op and its version.
        MissingDependencyError: The runtime is not installed.
    """

    call_class = Call

    def __init__(self, model: bytes | Path, *, runtime: str = "ai-edge-litert", threads: int = 1) -> None:
        if threads < 1:
            raise RuntimeFailure(f"threads = {threads}", allowed="a whole number of at least 1")
        self.runtime = runtime_version(runtime)
        self._label = "the model" if isinstance(model, bytes) else str(model)
        self._calls: dict[str, Call] = {}
        interpreter = _interpreter_class(runtime)
        try:
            _verify(model)
            source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
            with silenced():
                self._interpreter = interpreter(**source, num_threads=threads)
            self._wrapper = self._interpreter._interpreter
            definitions = self._wrapper.GetSignatureDefs() or {}
        except (ValueError, RuntimeError, OSError) as error:
            raise translated(str(error), f"loading {self._label}", self.runtime) from error
        self._definitions: Mapping[str, Any] = definitions
        self._subgraphs = {name: int(self._wrapper.GetSubgraphIndexFromSignature(name)) for name in definitions}
        self.signatures = {name: self._shapes(name) for name in definitions}
        self._primary_allocated = False

    def _shapes(self, name: str) -> SignatureShapes:
        def shapes(tensors: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
            sizes = {key: self._wrapper.TensorSize(index, self._subgraphs[name]) for key, index in tensors.items()}
            return {key: tuple(int(n) for n in size) for key, size in sizes.items()}

        return SignatureShapes(shapes(self._definitions[name]["inputs"]), shapes(self._definitions[name]["outputs"]))

    def call(self, name: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Call:
        """Allocates a signature, once; all inputs are zero at first.

        Args:
            name: Name of the signature.
            shapes: Input name -> shape, for inputs that take another shape than the file states. Only before the first call
                of any signature: a later resize would move the tensors under the arrays handed out.

        Raises:
            RuntimeFailure: The runtime cannot prepare the graph, or not in these shapes.
        """
        if name not in self._calls:
            self._calls[name] = self._allocated(name, shapes or {})
        return self._calls[name]

    def _allocated(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Call:
        definition, subgraph = self._definitions[name], self._subgraphs[name]
        try:
            for key, shape in shapes.items():
                self._wrapper.ResizeInputTensor(definition["inputs"][key], np.array(shape, np.int32), False, subgraph)
            with silenced():
                if not self._primary_allocated:
                    self._wrapper.AllocateTensors(-1)
                    self._primary_allocated = True
                self._wrapper.AllocateTensors(subgraph)
        except (ValueError, RuntimeError) as error:
            raise translated(str(error), f"preparing signature {name!r} of {self._label}", self.runtime) from error

        return self.call_class(name, self.runtime, self._interpreter, subgraph, definition["inputs"], definition["outputs"])


def runtime_version(runtime: str) -> str:
    """Name and version of an installed runtime.

    Raises:
        RuntimeFailure: No such runtime is known.
        MissingDependencyError: It is not installed.

    Example:
        >>> runtime_version("tflite-runtime")
        'tflite-runtime 2.14.0'
    """
    if runtime not in RUNTIMES:
        raise RuntimeFailure(f"runtime {runtime!r} is not known", allowed=", ".join(RUNTIMES))
    try:
        return f"{runtime} {importlib.metadata.version(runtime)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(f"runtime {runtime} is not installed", fix=f"pip install {runtime}") from error


def _interpreter_class(runtime: str) -> Any:
    try:
        return importlib.import_module(RUNTIMES[runtime]).Interpreter
    except ImportError as error:
        raise MissingDependencyError(
            f"runtime {runtime} cannot be imported: {error}", fix=f"pip install --force-reinstall {runtime}"
        ) from error


def _verify(model: bytes | Path) -> None:
    """Lets LiteRT check the flatbuffer's offsets; nothing is prepared, so that it takes milliseconds."""
    content = model if isinstance(model, bytes) else model.read_bytes()
    if not content:
        raise ValueError("The model is not a valid Flatbuffer buffer")
    _refuse_flex(content)
    try:
        _interpreter_class(VERIFIER)(model_content=content)
    except (ValueError, RuntimeError) as error:
        if re.search(DAMAGED, str(error)):  # what else this runtime objects to is for the chosen one to say
            raise


def _refuse_flex(content: bytes) -> None:
    """Says what a runtime says of Flex ops, before it sees them: where TensorFlow is loaded too, LiteRT crashes on them."""
    if b"Flex" not in content:
        return
    try:
        ops = reader.read(content).flex_ops
    except ArtifactError:  # damaged: the verifier says how
        return
    if ops:
        raise ValueError(f"Select TensorFlow op(s) are not supported: node 0 ({ops[0]}) failed to prepare")
