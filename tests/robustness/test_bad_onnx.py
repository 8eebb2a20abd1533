"""ONNX files that cannot be converted end in one error that says why and what to do; odd ones that can be are read."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from bad_onnx import BAD, Bad
from fuzz_models import VOCAB, recurrent_onnx

from edgelm.errors import EdgeLMError
from edgelm.model import LanguageModel
from edgelm_converters.onnx import read

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_one_error_that_helps(bad: Bad, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = bad.make(folder)
    with pytest.raises(EdgeLMError) as caught:
        read(path)
    first, *rest = str(caught.value).split("\n")
    assert re.search(bad.cause, first), first
    assert re.search(bad.help, "\n".join(rest)), rest
    assert len(first) < 500


def small(model: object) -> None:
    """Weights as float16, computed in float32."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph  # type: ignore[attr-defined]
    for tensor in list(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            wide = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{wide}_16"))
            graph.node.insert(0, helper.make_node("Cast", [f"{wide}_16"], [wide], f"widen_{wide}", to=TensorProto.FLOAT))


def int32_ids(model: object) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32  # type: ignore[attr-defined]


@pytest.mark.parametrize("edit", [small, int32_ids, lambda model: None], ids=["float16 weights", "int32 ids", "int64 ids"])
def test_what_is_merely_unusual_is_read(edit: object, tmp_path: Path) -> None:
    model = recurrent_onnx()
    edit(model)  # type: ignore[operator]
    onnx.save(model, tmp_path / "m.onnx")
    found = read(tmp_path / "m.onnx").model
    assert isinstance(found, LanguageModel)
    assert found.spec.vocab_size == VOCAB


def test_external_data_within_the_folder_is_read(tmp_path: Path) -> None:
    onnx.save(recurrent_onnx(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert isinstance(read(tmp_path / "m.onnx").model, LanguageModel)


def test_many_nodes_in_the_wrong_order_take_no_time(tmp_path: Path) -> None:
    model = recurrent_onnx()
    names = [f"t{number}" for number in range(4000)]
    pairs = zip(["logits", *names], names, strict=False)
    chain = [onnx.helper.make_node("Relu", [given], [made], made) for given, made in pairs]
    model.graph.node.extend(reversed(chain))
    onnx.save(model, tmp_path / "m.onnx")
    start = time.perf_counter()
    read(tmp_path / "m.onnx")
    assert time.perf_counter() - start < 20  # 16 million steps took 60 s; in order it is one
