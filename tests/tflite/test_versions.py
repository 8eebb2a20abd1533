from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgelm.errors import ProfileError
from edgelm.tflite.versions import (
    LITERT_2_1,
    RUNTIMES,
    TFLITE_RUNTIME_2_14,
    max_version,
    op_version,
    required_versions,
    unsupported_ops,
)

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from tflite_runtimes import interpreter
from edgelm.tflite.serialize import OperatorRecord, SubgraphRecord, TensorRecord, schema, serialize
import numpy as np

def has(op, version):
    graph = SubgraphRecord("main", [TensorRecord("x", (1,), "float32")], [OperatorRecord(op, version, (0,), (0,))], {"x": 0}, {"x": 0})
    try:
        interpreter(sys.argv[2], serialize([graph], [np.empty(0, np.uint8)], {}, ""))
    except ValueError as error:
        return "Didn't find op" not in str(error) and "not supported" not in str(error) and "Op builtin_code out of range" not in str(error)
    return True

for op, number in vars(schema.BuiltinOperator).items():
    if isinstance(number, int) and op not in ("CUSTOM", "DELEGATE"):
        versions = [version for version in range(1, 17) if has(op, version)]
        first = 2 if op == "BROADCAST_TO" else 1
        assert versions == list(range(first, first + len(versions))), (op, versions)
        print(op, versions[-1] if versions else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_table_is_what_the_runtime_says(runtime: str) -> None:
    """Every builtin op in versions 1 to 16 is offered to the runtime, in a process of its own."""
    command = [sys.executable, "-c", PROBE, str(Path(__file__).parent), runtime]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert answer.returncode == 0, answer.stderr[-2000:]
    said = dict(line.split() for line in answer.stdout.splitlines() if len(line.split()) == 2)
    assert len(said) > 150
    assert {op: int(version) for op, version in said.items()} == {op: max_version(runtime, op) for op in said}


def test_known_versions() -> None:
    assert max_version(TFLITE_RUNTIME_2_14, "FULLY_CONNECTED") == 10
    assert max_version(LITERT_2_1, "FULLY_CONNECTED") == 14
    assert max_version(LITERT_2_1, "NO_SUCH_OP") == 0
    with pytest.raises(ProfileError, match="tflite-runtime 1"):
        max_version("tflite-runtime 1", "ADD")


def test_what_a_runtime_lacks() -> None:
    required = required_versions([("FULLY_CONNECTED", 5), ("FULLY_CONNECTED", 12), ("ADD", 1)])
    assert required == {"ADD": 1, "FULLY_CONNECTED": 12}
    assert unsupported_ops(TFLITE_RUNTIME_2_14, required) == {"FULLY_CONNECTED": (12, 10)}
    assert unsupported_ops(LITERT_2_1, required) == {}


def test_the_first_fitting_rule_decides() -> None:
    assert op_version("FULLY_CONNECTED", ("float32", "int8", "float32"), per_row=True) == 12
    assert op_version("FULLY_CONNECTED", ("float32", "float32")) == 5
    assert op_version("SUB", ("float32", "float32"), rank=4) == 1
    assert op_version("SUB", ("float32", "float32"), rank=5) == 3
    assert op_version("TANH", ("float32",)) == 1
