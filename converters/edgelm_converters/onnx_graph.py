"""The ONNX graph as the lifts see it: read, with everything folded that depends on no input.

`read_graph` gives the model as the file has it; `folded` is what recognition by structure works on.
"""

from __future__ import annotations

from edgelm_converters.onnx_file import read_graph
from edgelm_converters.onnx_fold import folded
from edgelm_converters.onnx_node import Array, OnnxGraph, OnnxInput, OnnxNode, read_by

__all__ = ["Array", "OnnxGraph", "OnnxInput", "OnnxNode", "folded", "read_by", "read_graph"]
