"""Refuses Keras configs whose loading would run code that is not Keras' own.

A Keras config names Python objects by module and class, and Keras imports and calls what it names. Known ways to abuse that: Lambda
layers (marshalled bytecode), modules that are no Keras module, `keras.utils.get_file` as a "layer" (CVE-2025-8747), TFOpLambda with
`io.write_file`, TorchModuleWrapper (a pickle) and TFSMLayer (a foreign graph). The check works on names from literal tables and
imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edgelm.errors import UnsafeModelError

MODEL_KINDS = frozenset({"Sequential", "Functional", "Model"})
WRAPPER_KINDS = frozenset({"TimeDistributed", "Bidirectional"})
_RUNS_CODE = frozenset({"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"})

_KERAS_MODULE = re.compile(
    r"(tensorflow\.python\.)?(tf_)?keras(\.(api|_tf_keras|src|keras|engine|models|layers|ops|initializers|regularizers|constraints|activations"
    r"|dtype_policies|mixed_precision|optimizers|losses|metrics)(\.\w+)*)?"
)
_PLAIN_KERAS = frozenset({"DTypePolicy", "Policy", "DTypePolicyMap", "QuantizedDTypePolicy", *MODEL_KINDS})

# fmt: off
_LAYERS = frozenset({
    "InputLayer", "Embedding", "Dense", "Activation", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "Masking", "Flatten", "Reshape", "Permute", "RepeatVector", "ActivityRegularization", "EinsumDense", "TimeDistributed",
    "Bidirectional", "RNN", "SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "SimpleRNNCell", "LSTMCell", "GRUCell",
    "StackedRNNCells", "PeepholeLSTMCell", "ConvLSTM1D", "ConvLSTM2D", "MultiHeadAttention", "GroupedQueryAttention",
    "GroupQueryAttention", "Attention", "AdditiveAttention", "LayerNormalization", "RMSNormalization", "BatchNormalization",
    "GroupNormalization", "UnitNormalization", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot",
    "Merge", "Highway", "MaxoutDense", "TimeDistributedDense", "Conv1D", "Convolution1D", "AtrousConvolution1D", "SeparableConv1D",
    "DepthwiseConv1D", "Conv1DTranspose", "Conv2D", "Convolution2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose", "Conv3D",
    "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D", "Cropping1D",
    "Cropping2D", "LocallyConnected1D", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Softmax", "ReLU", "Rescaling",
    "CategoryEncoding", "Normalization", "Discretization", "Hashing", "TextVectorization", "StringLookup", "IntegerLookup", "TFOpLambda",
    "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceProperty", "InstanceMethod", "ReversibleEmbedding", "Identity",
})
# fmt: on

_PURE_FUNCTION = re.compile(r"(math|nn|linalg|__operators__|compat\.v1\.(nn|math)|keras\.(activations|backend|ops))\.\w+")
# fmt: off
_PURE_FUNCTIONS = frozenset({
    "add", "subtract", "multiply", "divide", "abs", "square", "sqrt", "exp", "sin", "cos", "pow", "tanh", "sigmoid", "matmul", "cast",
    "reshape", "transpose", "concat", "stack", "unstack", "split", "tile", "range", "shape", "size", "rank", "expand_dims", "squeeze",
    "gather", "one_hot", "where", "ones", "zeros", "ones_like", "zeros_like", "fill", "constant", "convert_to_tensor", "identity",
    "stop_gradient", "reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_any", "reduce_all", "maximum", "minimum", "einsum",
    "tensordot", "broadcast_to", "pad", "slice", "strided_slice", "greater", "less", "equal", "not_equal", "greater_equal", "less_equal",
    "logical_and", "logical_or", "logical_not", "clip_by_value", "cumsum", "roll", "reverse", "eye", "repeat", "sequence_mask",
    "compat.v1.transpose", "compat.v1.shape", "compat.v1.gather", "compat.v1.squeeze", "compat.v1.expand_dims", "compat.v1.reduce_sum",
    "compat.v1.reduce_mean", "compat.v1.ones_like", "compat.v1.zeros_like", "compat.v1.where", "compat.v1.size",
    "broadcast_dynamic_shape", "newaxis", "argmax", "argsort", "sort",
})
# fmt: on

# fmt: off
_ACTIVATIONS = frozenset({
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid", "hard_sigmoid",
    "hard_silu", "hard_swish", "hard_tanh", "softmax", "softplus", "softsign", "log_softmax", "log_sigmoid", "exponential", "celu", "glu",
    "sparse_plus", "sparsemax", "squareplus", "tanh_shrink", "soft_shrink", "hard_shrink", "threshold", "gelu_tanh", "gelu_new",
})
# fmt: on


def check_safe(config: Mapping[str, Any]) -> None:
    """Raises unless loading the config stays within Keras.

    Args:
        config: The model's serialised form, `{"class_name": "Functional", "config": {...}, ...}`. Its own `compile_config` is not
            looked at, since edgelm loads every model uncompiled.

    Raises:
        UnsafeModelError: A Lambda, a class or function that is not Keras' own, or an op with side effects; names the layer.
    """
    model = {key: value for key, value in config.items() if key != "compile_config"}
    for layer, entry in _objects(model):
        complaint = _complaint(entry)
        if complaint:
            raise UnsafeModelError(
                f"layer {layer!r} {complaint}",
                allowed="models made of Keras' own layers",
                fix="rebuild the model without it; or, if you trust whoever made the file, repeat the command with --trust",
            )


def _objects(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every serialised object of a config, with the name of the layer it belongs to."""
    pending: list[tuple[str, Any]] = [("model", model)]
    while pending:
        layer, value = pending.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("class_name"), str):
                layer = _layer_name(value) or layer
                yield layer, value
            pending += [(layer, child) for child in value.values()]
        elif isinstance(value, list):
            pending += [(layer, child) for child in value]


def _layer_name(entry: Mapping[str, Any]) -> str:
    inner = entry.get("config")
    name = entry.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
    return str(name or "")


def _complaint(entry: Mapping[str, Any]) -> str:
    """What is unsafe about one serialised object, or an empty text."""
    kind, module, config = entry["class_name"], entry.get("module"), entry.get("config")
    if kind in _RUNS_CODE:
        return f"is a {kind}: it runs code that the file brings along or names"
    if kind == "function":
        known = isinstance(config, str) and config in _ACTIVATIONS
        return "" if known else f"uses the function {config!r}, which is no Keras activation: its code is not in the file"
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return _op_complaint(config)
    if str(entry.get("registered_name")).startswith("edgelm>") or kind.startswith("edgelm>"):
        return ""
    if module is None:
        is_layer = (isinstance(config, Mapping) and "name" in config) or "inbound_nodes" in entry
        known = kind in _LAYERS or kind in MODEL_KINDS
        return "" if known or not is_layer else f"is of class {kind}, which is no Keras layer: its code is not in the file"
    if not isinstance(module, str) or not _KERAS_MODULE.fullmatch(module) or (module == "keras" and kind not in _PLAIN_KERAS):
        return f"is of class {kind} from {module!r}, which is not part of Keras: its code is not in the file"
    return ""


def _op_complaint(config: object) -> str:
    function = config.get("function") if isinstance(config, Mapping) else None
    if isinstance(function, str) and (function in _PURE_FUNCTIONS or _PURE_FUNCTION.fullmatch(function)):
        return ""
    return f"calls the TensorFlow function {function!r}, which is not on the list of functions without side effects"
