"""Reads many damaged models, one after another, in a process with little memory: `python fuzz_worker.py '{"kind": ..., ...}'`.

Before each case it says which one begins, so that whoever started it knows where it died. A case that takes too long ends the process.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import damaged_bytes, damaged_json, damaged_proto

from edgelm.errors import EdgeLMError
from edgelm.model import LanguageModel

MEMORY = 2 << 30
SECONDS = 20  # for a case that takes milliseconds: the machine may be busy


def damage_onnx(file: Path, target: Path, random: np.random.Generator) -> Path:
    content = file.read_bytes()
    structural = random.random() < 0.6
    (target / "m.onnx").write_bytes(damaged_proto(content, random) if structural else damaged_bytes(content, random))
    return target / "m.onnx"


def damage_folder(folder: Path, target: Path, random: np.random.Generator) -> Path:
    files = sorted(folder.iterdir())
    chosen = files[random.integers(len(files))]
    for file in files:
        content = file.read_bytes()
        if file == chosen:
            plain = file.suffix == ".json" and random.random() < 0.7
            header = file.suffix != ".json" and random.random() < 0.5
            if header:  # the table of a safetensors file stands behind its length
                end = 8 + int.from_bytes(content[:8], "little")
                table = damaged_json(content[8:end], random)
                content = len(table).to_bytes(8, "little") + table + content[end:]
            else:
                content = damaged_json(content, random) if plain else damaged_bytes(content, random)
        (target / file.name).write_bytes(content)
    return target


def read_onnx(path: Path) -> Any:
    from edgelm_converters import onnx

    return onnx.read(path)


def read_folder(path: Path) -> Any:
    from edgelm_converters import huggingface

    return huggingface.read(path)


KINDS: dict[str, tuple[Callable[[Path, Path, np.random.Generator], Path], Callable[[Path], Any]]] = {
    "onnx": (damage_onnx, read_onnx),
    "folder": (damage_folder, read_folder),
}


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """`lifted`, `graph`, the kind of error, or what escaped."""
    try:
        imported = read(path)
        if isinstance(imported.model, LanguageModel):
            imported.source_logits(np.zeros((1, 2), np.int32))
        return str(imported.model.origin.way)
    except EdgeLMError as error:
        return type(error).__name__ if error.what.strip() else "escaped: an error without a message"
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        return f"escaped: {type(error).__name__}: {str(error)[:200]!r} at {where}"


def say(line: str) -> None:
    sys.stdout.write(line.replace("\n", " ") + "\n")
    sys.stdout.flush()


def _peak() -> int:
    """Most bytes this process has held; `ru_maxrss` would include those of the process that started it."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) << 10


def main(task: str) -> None:
    wanted = json.loads(task)
    damage, read = KINDS[wanted["kind"]]
    source, target = Path(wanted["source"]), Path(wanted["target"])
    assert not outcome(read, source).startswith("escaped")  # imports all it needs
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for number in range(wanted["first"], wanted["last"]):
        path = damage(source, target, np.random.default_rng([wanted["seed"], number]))
        say(f"begin {number}")
        signal.alarm(SECONDS)
        say(f"end {number} {outcome(read, path)}")
        signal.alarm(0)
    say(f"peak {_peak()}")


if __name__ == "__main__":
    main(sys.argv[1])
