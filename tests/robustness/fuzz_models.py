"""Small sound models that the fuzz tests damage: ONNX files and a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

VOCAB, WIDTH, HEADS, LAYERS = 13, 8, 2, 2


def _weights(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def onnx_model(
    nodes: list[Any], constants: dict[str, np.ndarray], states: dict[str, tuple[Any, ...]], shape: tuple[Any, ...] = ("batch", "time")
) -> Any:
    """A graph from `ids` (batch, time) to `logits`; each state has an output `new_...`."""
    from onnx import TensorProto, helper, numpy_helper

    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (*shape, VOCAB))]
    for name, shape in states.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"new_{name}", TensorProto.FLOAT, shape))
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "lm", inputs, outputs, held), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


def recurrent_onnx() -> Any:
    """An LSTM whose states go in and out."""
    from onnx import helper

    constants: dict[str, np.ndarray] = {
        **_weights(1, table=(VOCAB, WIDTH), w=(1, 4 * WIDTH, WIDTH), r=(1, 4 * WIDTH, WIDTH), b=(1, 8 * WIDTH), head=(WIDTH, VOCAB)),
        "one": np.int64([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], "embed"),
        helper.make_node("Transpose", ["x"], ["xt"], "first", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "w", "r", "b", "", "h", "c"], ["y", "new_h", "new_c"], "lstm", hidden_size=WIDTH),
        helper.make_node("Squeeze", ["y", "one"], ["ys"], "squeeze"),
        helper.make_node("Transpose", ["ys"], ["yt"], "back", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["yt", "head"], ["logits"], "project"),
    ]
    return onnx_model(nodes, constants, {"h": (1, "batch", WIDTH), "c": (1, "batch", WIDTH)})


def transformer_onnx(shape: tuple[Any, ...] = ("batch", "time")) -> Any:
    """A decoder of one layer with learned positions, its mask computed."""
    from onnx import helper

    size = WIDTH // HEADS
    constants: dict[str, np.ndarray] = {
        **_weights(
            2, table=(VOCAB, WIDTH), places=(32, WIDTH), qkv=(WIDTH, 3 * WIDTH), out=(WIDTH, WIDTH), up=(WIDTH, 16), down=(16, WIDTH)
        ),
        **_weights(3, g1=(WIDTH,), b1=(WIDTH,), g2=(WIDTH,), b2=(WIDTH,), head=(WIDTH, VOCAB), bias=(VOCAB,)),
        **{"zero": np.int64(0), "step": np.int64(1), "at": np.int64([1]), "root": np.float32(size**0.5), "far": np.float32(-1e9)},
        **{"split": np.int64([0, 0, HEADS, size]), "join": np.int64([0, 0, WIDTH]), "ends": np.int64([1])},
    }
    rows = [
        ("Gather", "table ids", "tokens"), ("Shape", "ids", "shape"), ("Gather", "shape at", "times"), ("Squeeze", "times", "time"),
        ("Range", "zero time step", "range"), ("Gather", "places range", "place"), ("Add", "tokens place", "x"),
        ("LayerNormalization", "x g1 b1", "n1"), ("MatMul", "n1 qkv", "mixed"), ("Split", "mixed", "q k v"),
        ("Reshape", "q split", "qs"), ("Reshape", "k split", "ks"), ("Reshape", "v split", "vs"),
        ("Transpose", "qs", "qh"), ("Transpose", "ks", "kh"), ("Transpose", "vs", "vh"), ("MatMul", "qh kh", "weights"),
        ("Div", "weights root", "scaled"), ("Unsqueeze", "range ends", "below"), ("LessOrEqual", "range below", "seen"),
        ("Where", "seen scaled far", "masked"), ("Softmax", "masked", "shares"), ("MatMul", "shares vh", "heads"),
        ("Transpose", "heads", "back"), ("Reshape", "back join", "joined"), ("MatMul", "joined out", "attended"),
        ("Add", "x attended", "y"), ("LayerNormalization", "y g2 b2", "n2"), ("MatMul", "n2 up", "inner"), ("Relu", "inner", "active"),
        ("MatMul", "active down", "added"), ("Add", "y added", "z"), ("MatMul", "z head", "scores"), ("Add", "scores bias", "logits"),
    ]  # fmt: skip
    attributes = {
        "q k v": {"axis": -1, "num_outputs": 3}, "qh": {"perm": [0, 2, 1, 3]}, "kh": {"perm": [0, 2, 3, 1]}, "vh": {"perm": [0, 2, 1, 3]},
        "back": {"perm": [0, 2, 1, 3]}, "shares": {"axis": -1}, "n1": {"axis": -1}, "n2": {"axis": -1},
    }  # fmt: skip
    nodes = [helper.make_node(op, read.split(), made.split(), f"{op}_{made[:5]}", **attributes.get(made, {})) for op, read, made in rows]
    return onnx_model(nodes, constants, {}, shape)


def window_onnx() -> Any:
    """The decoder for eight tokens: all shapes are known and much can be folded."""
    return transformer_onnx((1, 8))


def fused_onnx() -> Any:
    """A decoder of one layer in the fused operations of onnxruntime."""
    from onnx import helper

    constants: dict[str, np.ndarray] = {
        **_weights(5, table=(VOCAB, WIDTH), qkv=(WIDTH, 3 * WIDTH), start=(3 * WIDTH,), out=(WIDTH, WIDTH), up=(WIDTH, 16)),
        **_weights(6, down=(16, WIDTH), g1=(WIDTH,), b1=(WIDTH,), g2=(WIDTH,), b2=(WIDTH,), head=(WIDTH, VOCAB), bias=(16,)),
    }
    fused = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], "embed"),
        helper.make_node("LayerNormalization", ["x", "g1", "b1"], ["n1"], "first", axis=-1),
        helper.make_node("Attention", ["n1", "qkv", "start"], ["seen"], "attend", num_heads=HEADS, unidirectional=1, **fused),
        helper.make_node("MatMul", ["seen", "out"], ["attended"], "out"),
        helper.make_node("SkipLayerNormalization", ["x", "attended", "g2", "b2"], ["n2", "", "", "y"], "second", epsilon=1e-5, **fused),
        helper.make_node("MatMul", ["n2", "up"], ["inner"], "up"),
        helper.make_node("FastGelu", ["inner", "bias"], ["active"], "gelu", **fused),
        helper.make_node("MatMul", ["active", "down"], ["added"], "down"),
        helper.make_node("Add", ["y", "added"], ["z"], "add"),
        helper.make_node("MatMul", ["z", "head"], ["logits"], "project"),
    ]
    model = onnx_model(nodes, constants, {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def llama_folder(folder: Path, *, shards: bool) -> None:
    """A Hugging Face folder of a tiny Llama, in one file or in two."""
    from safetensors.numpy import save_file

    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        names = {
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (WIDTH // HEADS, WIDTH),
            "self_attn.v_proj": (WIDTH // HEADS, WIDTH),
        }
        names |= {
            "self_attn.o_proj": (WIDTH, WIDTH),
            "mlp.gate_proj": (12, WIDTH),
            "mlp.up_proj": (12, WIDTH),
            "mlp.down_proj": (WIDTH, 12),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
        shapes |= {f"model.layers.{layer}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    weights = _weights(4, **shapes)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": 12,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 1, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if not shards:
        save_file(weights, folder / "model.safetensors")
        return
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    placed = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
