"""The whole way on an arm64 device: Debian's arm64 adbd and the arm64 runner under QEMU's user emulation.

Times of an emulated core are no times of a phone, so that none is looked at; that the model runs there and its report comes back is.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from device.adb_world import World
from tiny_models import write_model

from edgelm import pipeline
from edgelm.device import adb, adb_binaries, adb_facts, adb_runner, emulator
from edgelm.device.adb_binaries import Binaries
from edgelm.device.adb_runner import BenchOptions
from edgelm.device.cache import cache_folder
from edgelm.errors import DeviceError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "tiny", "transformer")
    pipeline.convert(pipeline.Request(str(folder / "tiny"), output=folder / "out", quality_tokens=0))
    return folder / "out" / "model.tflite"


@pytest.fixture
def device(tmp_path, monkeypatch):
    if not (cache_folder() / emulator.FOLDER).is_dir():
        pytest.skip(f"no arm64 runner: {emulator.SETUP}")
    world = World.boot(tmp_path / "phone", arm64=True)
    world.write("props/ro.product.model", "Emulated\n")
    world.plug_in(monkeypatch)
    yield adb.connect()
    world.close()


def test_the_arm64_runner_measures_on_an_arm64_device(device, artifact):
    facts = adb_facts.ask(device)
    assert (facts.abi, facts.system) == ("arm64-v8a", "Linux arm64-v8a")
    binaries = adb_binaries.find(facts, None, None, cache=cache_folder())
    options = BenchOptions(prompt=5, tokens=6, warmup=1, timeout_s=120)
    report = adb_runner.profile(device, artifact, binaries, facts, name="tiny", options=options)
    assert (report.device.abi, report.device.model) == ("arm64-v8a", "Emulated")
    assert "dotprod" in report.device.features  # a Cortex-A76
    assert report.model.sha256 == hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert sum(map(len, report.decode.signature_ms.values())) == 6
    assert device.shell("ls", "/data/local/tmp", task="asking").output == ""

    shell = Path(shutil.which("sh") or "/bin/sh").resolve()
    with pytest.raises(DeviceError, match="built for x86_64, the device runs Linux arm64-v8a"):
        adb_runner.profile(device, artifact, Binaries(shell, shell), facts, name="tiny", options=options)
