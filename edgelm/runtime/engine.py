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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import MissingDependencyError, RuntimeFailure
from edgelm.runtime.failures import translated

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

    Attributes:
        name: Name of the signature.
        inputs: Input name -> array that *is* the runtime's tensor; writing to it is all it takes.
        outputs: Output name -> array that is the runtime's tensor; its values hold until the next `invoke()`.
    """

    def __init__(self, name: str, engine: Engine, subgraph: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self._engine = engine
        self._subgraph = subgraph
        self._invoke = engine.wrapper.Invoke

    def invoke(self) -> None:
        """Runs the signature.

        Raises:
            RuntimeFailure: The runtime failed, for example at an id outside of a table.
        """
        try:
            self._invoke(self._subgraph)
        except (ValueError, RuntimeError) as error:
            self._engine.fail(f"running signature {self.name!r}", error)


class Engine:
    """One model on one runtime.

    Args:
        model: A .tflite file, or its bytes.
        runtime: `ai-edge-litert` or `tflite-runtime`.
        threads: Threads of the runtime's own pool.

    Attributes:
        runtime: Name and version, such as `ai-edge-litert 2.1.0`.
        signatures: Signature name -> names and shapes.

    Raises:
        RuntimeFailure: The file is missing, damaged, or holds something that the runtime lacks; names the op and its version.
        MissingDependencyError: The runtime is not installed.
    """

    def __init__(self, model: bytes | Path, *, runtime: str = "ai-edge-litert", threads: int = 1) -> None:
        if threads < 1:
            raise RuntimeFailure(f"threads = {threads}", allowed="a whole number of at least 1")
        self.runtime = runtime_version(runtime)
        self._label = "the model" if isinstance(model, bytes) else str(model)
        self._views: dict[str, Call] = {}
        interpreter = _interpreter_class(runtime)
        try:
            if runtime != VERIFIER or isinstance(model, Path):
                _verify(model)
            source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
            self._interpreter = interpreter(**source, num_threads=threads)
            self.wrapper = self._interpreter._interpreter
            definitions = self.wrapper.GetSignatureDefs() or {}
        except (ValueError, RuntimeError, OSError) as error:
            self.fail(f"loading {self._label}", error)
        self._definitions: Mapping[str, Any] = definitions
        self._subgraphs = {name: int(self.wrapper.GetSubgraphIndexFromSignature(name)) for name in definitions}
        self.signatures = {name: self._shapes(name) for name in definitions}
        self._primary_allocated = False

    def _shapes(self, name: str) -> SignatureShapes:
        def shapes(tensors: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
            sizes = {key: self.wrapper.TensorSize(index, self._subgraphs[name]) for key, index in tensors.items()}
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
        if name not in self._views:
            self._views[name] = self._allocated(name, shapes or {})
        return self._views[name]

    def _allocated(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Call:
        definition, subgraph = self._definitions[name], self._subgraphs[name]
        try:
            for key, shape in shapes.items():
                self.wrapper.ResizeInputTensor(definition["inputs"][key], np.array(shape, np.int32), False, subgraph)
            if not self._primary_allocated:
                self.wrapper.AllocateTensors(-1)
                self._primary_allocated = True
            self.wrapper.AllocateTensors(subgraph)
        except (ValueError, RuntimeError) as error:
            self.fail(f"preparing signature {name!r} of {self._label}", error)

        def views(tensors: Mapping[str, int]) -> dict[str, Tensor]:
            return {key: self.wrapper.tensor(self._interpreter, index, subgraph) for key, index in tensors.items()}

        call = Call(name, self, subgraph, views(definition["inputs"]), views(definition["outputs"]))
        for tensor in call.inputs.values():
            tensor[...] = 0
        return call

    def fail(self, doing: str, error: Exception) -> NoReturn:
        """Raises the runtime's own error as a `RuntimeFailure` with cause and fix."""
        raise translated(str(error), doing, self.runtime) from error


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
    try:
        _interpreter_class(VERIFIER)(model_content=content)
    except (ValueError, RuntimeError) as error:
        if "flatbuffer" in str(error).lower() or "schema version" in str(error):
            raise
