"""The emulator of arm64 cores: what is found, what is refused, and, under a real QEMU, what is counted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lower.lowered_models import random_model
from tiny_models import recurrent_spec

from edgelm.device import cache, emulator, emulator_setup
from edgelm.errors import DebianPackagesError, EmulatorError
from edgelm.lower.direct import lower
from edgelm.tflite import reader

STAND_IN = Path(__file__).parent / "stand_in_qemu.py"
VOCABULARY = 16


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A cache with a set-up whose QEMU is `stand_in_qemu.py`."""
    folder = tmp_path / "cache" / "arm64"
    for name in ("root/usr/bin", "bin"):
        (folder / name).mkdir(parents=True)
    qemu = folder / "root/usr/bin/qemu-aarch64"
    qemu.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {STAND_IN} "$@"\n')
    qemu.chmod(0o755)
    (folder / "bin/edgelm_runner").write_text("runner")
    _write_manifest(folder)
    return tmp_path / "cache"


def _write_manifest(folder: Path, **changed: object) -> None:
    files = {str(file.relative_to(folder)): _sha256(file) for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json"}
    packages = {"qemu-user": "1:7.2+dfsg-7", "g++-12-aarch64-linux-gnu": "12.2.0", "libc6-arm64-cross": "2.36"}
    plain = {"schema": emulator.SCHEMA, "litert": "2.1.0", "packages": packages, "sources": emulator.sources_sha256(), "files": files}
    (folder / "manifest.json").write_text(json.dumps(plain | changed))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELM_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("EDGELM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "edgelm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "edgelm"


def test_what_is_found(made: Path, tmp_path: Path) -> None:
    assert emulator.find(tmp_path / "nothing", "x86_64") is None
    found = emulator.find(made, "x86_64")
    assert isinstance(found, emulator.Emulator)
    assert found.title == "QEMU 7.2, ai-edge-litert 2.1.0 for arm64"
    assert [core.name for core in found.cores] == ["cortex-a53", "cortex-a76", "i8mm class"]
    native = emulator.find(tmp_path / "nothing", "aarch64")  # nothing has to be set up there
    assert native == emulator.NativeMachine(tmp_path / "nothing")
    assert native.cores == (emulator.THIS_MACHINE,)


def test_nothing_set_up_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError) as error:
        emulator.require(tmp_path)
    assert error.value.fix == "edgelm doctor --setup-arm64"


def test_a_damaged_set_up_is_refused(made: Path) -> None:
    runner = made / "arm64/bin/edgelm_runner"
    runner.write_text("another")
    with pytest.raises(EmulatorError, match="bin/edgelm_runner was changed"):
        emulator.find(made, "x86_64")
    runner.unlink()
    with pytest.raises(EmulatorError, match="bin/edgelm_runner is missing"):
        emulator.find(made, "x86_64")
    (made / "arm64/manifest.json").write_text("{")
    with pytest.raises(EmulatorError, match=r"manifest\.json cannot be read"):
        emulator.find(made, "x86_64")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"schema": "edgelm-arm64/0"}, "another version"), ({"sources": "0"}, "another version"), ({"litert": "2.3.0"}, "another version")],
)
def test_a_set_up_of_another_version_is_refused(made: Path, changed: dict[str, str], message: str) -> None:
    _write_manifest(made / "arm64", **changed)
    with pytest.raises(EmulatorError, match=message) as error:
        emulator.find(made, "x86_64")
    assert error.value.fix == emulator.SETUP


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(lower(random_model(recurrent_spec(VOCABULARY))).tflite)
    return path


def run_stand_in(made: Path, model: Path, monkeypatch: pytest.MonkeyPatch, kind: str, timeout: float = 60.0) -> emulator.Run:
    """Two calls, each run three times."""
    (signature,) = reader.outline(model.read_bytes()).signatures
    sizes = [int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize for tensor in signature.outputs.values()]
    monkeypatch.setenv("STAND_IN", kind)
    monkeypatch.setenv("OUTPUT_BYTES", str(2 * sum(sizes)))
    call = {name: np.zeros(tensor.shape, tensor.dtype) for name, tensor in signature.inputs.items()}
    found = emulator.Emulator(made / "arm64")
    return found.run(emulator.CORES[0], model, "step", [call, call], repeat=3, timeout=timeout)


def test_the_last_run_of_each_call_is_counted(made: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_stand_in(made, model, monkeypatch, "good")
    assert run.counts == ({"total": 102}, {"total": 105})
    assert [call["logits"].shape for call in run.outputs] == [(1, VOCABULARY)] * 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("crash", "signature 'step' on cortex-a53: the emulated process died of Segmentation fault"),
        ("error", "the model cannot be read"),
        ("hang", "took more than 1 s"),
        ("short", "bytes of outputs of step"),
        ("uncounted", "the instruction counter saw 0 runs of 6"),
    ],
)
def test_what_goes_wrong_under_the_emulator_is_said(
    made: Path, model: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    with pytest.raises(EmulatorError, match=message):
        run_stand_in(made, model, monkeypatch, kind, timeout=1.0 if kind == "hang" else 60.0)


@pytest.mark.parametrize(
    ("system", "machine", "message"),
    [("Darwin", "x86_64", "this is Darwin on x86_64"), ("Linux", "riscv64", "riscv64"), ("Linux", "aarch64", "runs natively")],
)
def test_other_hosts_are_told_what_to_do(system: str, machine: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message) as error:
        emulator_setup.require_host(system, machine)
    assert error.value.fix


def test_a_machine_without_apt_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DebianPackagesError, match="the emulator of arm64 cores, and this machine has no apt-get and no dpkg-deb") as error:
        emulator_setup.set_up(tmp_path / "cache", lambda stage, done, total: None)
    assert "edgelm doctor --setup-arm64, or measure on a phone" in error.value.fix
    assert not any((tmp_path / "cache").iterdir())


def test_a_wheel_that_is_not_the_known_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match=r"9\.9\.9 is not known"):
        emulator_setup.fetch_wheel("9.9.9", tmp_path)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "ai_edge_litert-2.1.0-cp311-cp311-manylinux_2_27_aarch64.whl").write_bytes(b"no wheel")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(wheels)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(name, value)
    with pytest.raises(EmulatorError, match="DO NOT MATCH THE HASHES"):
        emulator_setup.fetch_wheel("2.1.0", tmp_path)
    assert not list(tmp_path.glob("*.whl"))


def test_another_version_of_edgelm_builds_its_runner_and_fetches_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made / "arm64"
    _write_manifest(folder, sources="0")

    def build(root: Path, library: Path, output: Path) -> None:
        (output / "edgelm_runner").write_text("new runner")

    monkeypatch.setattr(emulator_setup, "build", build)
    stages: list[str] = []
    emulator_setup.set_up(made, lambda stage, done, total: stages.append(stage))
    assert stages == ["building the runner and the instruction counter"]
    assert (folder / "bin/edgelm_runner").read_text() == "new runner"
    assert emulator_setup.is_set_up(made)
    assert [path.name for path in made.iterdir()] == ["arm64"]


def test_a_failed_build_leaves_nothing_half_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_manifest(made / "arm64", sources="0")
    with pytest.raises(EmulatorError, match=r"gcc|aarch64-linux-gnu"):  # neither compiler can build
        emulator_setup.set_up(made, lambda stage, done, total: None)
    assert (made / "arm64/bin/edgelm_runner").read_text() == "runner"
    assert [path.name for path in made.iterdir()] == ["arm64"]


PROGRAM = r"""
#include <unistd.h>
#define TEN(text) __asm__ volatile(".rept 10\n" text "\n.endr" ::: "memory", "v0", "v1", "v2")
int main(void) {
  lseek(-1, 0xED6E, 2);
  TEN("fmla v0.4s, v1.4s, v2.4s"); TEN("fmla v0.4s, v1.4s, v2.s[1]"); TEN("fmla v0.2d, v1.2d, v2.2d");
  TEN("fmla v0.8h, v1.8h, v2.8h"); TEN("smlal v0.8h, v1.8b, v2.8b"); TEN("umlal v0.4s, v1.4h, v2.h[1]");
  TEN("smull v0.8h, v1.8b, v2.8b"); TEN("smull2 v0.4s, v1.8h, v2.h[1]"); TEN("sdot v0.4s, v1.16b, v2.16b");
  TEN("sdot v0.4s, v1.16b, v2.4b[1]"); TEN("udot v0.2s, v1.8b, v2.8b"); TEN("usdot v0.4s, v1.16b, v2.16b");
  TEN("sudot v0.4s, v1.16b, v2.4b[1]"); TEN("smmla v0.4s, v1.16b, v2.16b"); TEN("ummla v0.4s, v1.16b, v2.16b");
  TEN("bfmmla v0.4s, v1.8h, v2.8h"); TEN("add v0.4s, v1.4s, v2.4s"); TEN("mul v0.4s, v1.4s, v2.4s");
  TEN("ld1 {v0.16b}, [sp]"); TEN("fadd v0.4s, v1.4s, v2.4s");
  lseek(-1, 0xED6E, 3);
  return 0;
}
"""


@pytest.mark.slow
def test_instructions_are_counted_by_class(arm64_cache: Path, tmp_path: Path) -> None:
    folder, program = arm64_cache / "arm64", tmp_path / "program"
    (tmp_path / "program.c").write_text(PROGRAM)
    environment = {**os.environ, "LD_LIBRARY_PATH": emulator.libraries(folder / "root")}
    compiler = [folder / "root/usr/bin/aarch64-linux-gnu-g++-12", f"--sysroot={folder / 'root'}", "-march=armv8.6-a+fp16", "-x", "c"]
    subprocess.run([*compiler, tmp_path / "program.c", "-o", program], env=environment, check=True)
    log = tmp_path / "log"
    subprocess.run([*emulator.Emulator(folder).command(emulator.CORES[2], log), program], env=environment, check=True)
    counted = json.loads(log.read_text().splitlines()[-1].removeprefix("edgelm "))
    assert {name: count for name, count in counted.items() if name != "total"} == {
        "phase": 3, "fmla": 40, "widening": 40, "dot": 50, "mmla": 30, "sve": 0,
    }  # fmt: skip
    assert 200 <= counted["total"] < 400  # ten of each of twenty, and the call of lseek


@pytest.mark.slow
def test_a_set_up_is_made_once(arm64_cache: Path) -> None:
    stages: list[str] = []
    emulator_setup.set_up(arm64_cache, lambda stage, done, total: stages.append(stage))
    assert stages == []
    assert emulator.versions(arm64_cache / "arm64")["ai-edge-litert"] == "2.1.0"
