"""Layers that torch's exporters do not know, made exportable for a while: nn.RMSNorm, and nn.LSTM with projections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

_RMS_NORM = "aten::rms_norm"


@contextlib.contextmanager
def exportable(module: Any, opset: int) -> Iterator[None]:
    """For its time, layers of a module compute the same in a way that exporters know; afterwards all is as before.

    Args:
        module: A torch.nn.Module.
        opset: Of the tracing exporter, which refuses nn.RMSNorm at every one; 13 to 17.
    """
    import torch

    projected = [part for part in module.modules() if isinstance(part, torch.nn.LSTM) and part.proj_size and not part.bidirectional]
    for layer in projected:
        layer.forward = _without_projection(layer)
    torch.onnx.register_custom_op_symbolic(_RMS_NORM, _rms_norm, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_RMS_NORM, opset)
        for layer in projected:
            del layer.forward


def _without_projection(layer: Any) -> Callable[..., Any]:
    """The forward of an LSTM whose projections (Sak et al. 2014) are multiplied into the matrices that read them.

    With h_t = P m_t, where m_t is the cell's output: W_hh h = (W_hh P) m, and so for the input matrix of the next layer. States begin at
    zero, as those of m then do; the last projection stays a layer of its own.
    """
    import torch

    plain = torch.nn.LSTM(layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first)
    plain = plain.to(layer.weight_ih_l0).eval().requires_grad_(False)
    for name, weight in plain.named_parameters():
        kind, _, number = name.rpartition("_l")
        source = getattr(layer, name)
        reads = int(number) - (kind == "weight_ih")  # the layer whose projection this matrix reads
        folded = kind.startswith("weight") and reads >= 0
        weight.copy_(source @ getattr(layer, f"weight_hr_l{reads}") if folded else source)
    projection = getattr(layer, f"weight_hr_l{layer.num_layers - 1}").detach()

    def forward(inputs: Any, states: Any = None) -> Any:
        outputs, _ = plain(inputs)
        return torch.nn.functional.linear(outputs, projection), states or (None, None)

    return forward


def _rms_norm(graph: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """Writes x / sqrt(mean(x^2) + eps) * weight, over as many last axes as `shape` has."""
    import torch
    from torch.onnx import symbolic_helper

    axes = [-1 - axis for axis in range(len(symbolic_helper._maybe_get_const(shape, "is")))]
    missing = symbolic_helper._is_none(eps)
    epsilon = torch.finfo(torch.float32).eps if missing else symbolic_helper._maybe_get_const(eps, "f")
    mean = graph.op("ReduceMean", graph.op("Mul", x, x), axes_i=axes, keepdims_i=1)
    root = graph.op("Sqrt", graph.op("Add", mean, graph.op("Constant", value_t=torch.tensor(epsilon))))
    normed = graph.op("Div", x, root)
    return normed if symbolic_helper._is_none(weight) else graph.op("Mul", normed, weight)
