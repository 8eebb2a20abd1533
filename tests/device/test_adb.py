"""adb itself: which device is used, and what is said when none can be. The states a real adbd cannot be in come from a stub."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.device import adb, adb_facts
from edgelm.device.adb import AdbDevice
from edgelm.device.adb_errors import printable
from edgelm.errors import DeviceError, MissingDependencyError


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Puts an adb on PATH that runs the given shell script."""

    def make(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "adb"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return path

    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return make


def listing(*rows: str) -> str:
    """A stub that lists devices."""
    return "cat <<'EOF'\n" + "\n".join(("List of devices attached", *rows, "")) + "\nEOF"


def test_the_only_ready_device_is_used(stub):
    path = stub(listing("pixel\tdevice", "old\toffline"))
    assert adb.connect() == AdbDevice(path, "pixel")


def test_a_serial_may_have_blanks(stub):
    stub(listing("adb-1a2b (2)._adb-tls-connect._tcp\tdevice"))
    assert adb.connect().serial == "adb-1a2b (2)._adb-tls-connect._tcp"


def test_a_device_is_named_by_its_serial_or_by_adbs_variable(stub, monkeypatch):
    stub(listing("one\tdevice", "10.0.0.7:5555\tdevice"))
    assert adb.connect("10.0.0.7:5555").serial == "10.0.0.7:5555"
    monkeypatch.setenv("ANDROID_SERIAL", "one")
    assert adb.connect().serial == "one"


def test_several_devices_are_listed(stub):
    stub(listing("one\tdevice", "two\tdevice"))
    with pytest.raises(DeviceError, match="2 devices are connected") as caught:
        adb.connect()
    assert caught.value.allowed == "--device adb:one, --device adb:two"


@pytest.mark.parametrize(
    ("row", "what", "fix"),
    [
        ("p\tunauthorized", "p is unauthorized", "Allow USB debugging"),
        ("p\tauthorizing", "p is authorizing", "Allow USB debugging"),
        ("p\toffline", "p is offline", "adb reconnect offline"),
        ("p\tno permissions (missing udev rules? user is in the plugdev group); see [http://x]", "p has no USB permissions", "apt install"),
        ("p\tbootloader", "p is bootloader", "fastboot reboot"),
        ("p\trecovery", "p is recovery", "adb reboot"),
    ],
)
@pytest.mark.parametrize("serial", ["", "p"])
def test_a_device_that_is_not_ready_says_what_helps(stub, row, what, fix, serial):
    stub(listing(row))
    with pytest.raises(DeviceError, match=what) as caught:
        adb.connect(serial)
    assert fix in caught.value.fix


def test_no_device_at_all(stub):
    stub(listing())
    with pytest.raises(DeviceError, match="no device is connected") as caught:
        adb.connect()
    assert "USB debugging" in caught.value.fix
    assert "--import" in caught.value.fix


def test_a_serial_that_is_not_there_lists_those_that_are(stub):
    stub(listing("one\tdevice", "two\toffline"))
    with pytest.raises(DeviceError, match="no device 'three'") as caught:
        adb.connect("three")
    assert caught.value.allowed == "adb:one (device), adb:two (offline)"


def test_a_server_that_does_not_start(stub):
    stub("echo '* failed to start daemon' >&2; exit 1")
    with pytest.raises(DeviceError, match="failed to start daemon") as caught:
        adb.connect()
    assert "kill-server" in caught.value.fix


def test_an_adb_that_cannot_run(stub):
    stub("").write_bytes(b"\x7fELF")
    with pytest.raises(DeviceError, match="cannot be run"):
        adb.connect()


def test_adb_is_found_in_the_sdk_when_it_is_not_on_path(tmp_path):
    inside = tmp_path / "platform-tools" / "adb"
    inside.parent.mkdir()
    inside.write_text("")
    inside.chmod(0o755)
    environment = {"PATH": str(tmp_path), "ANDROID_HOME": str(tmp_path)}
    assert adb.find_adb(environment) == inside
    with pytest.raises(MissingDependencyError, match="adb is not on PATH") as caught:
        adb.find_adb({"PATH": str(tmp_path)})
    assert "apt install adb" in caught.value.fix


def test_a_device_that_does_not_answer(stub):
    device = AdbDevice(stub("sleep 30"), "p")
    with pytest.raises(DeviceError, match="within 0 s while waiting for Godot"):
        device.shell("true", task="waiting for Godot", timeout_s=0.1)


@pytest.mark.parametrize(
    ("rows", "what"),
    [((), "p was unplugged while asking"), (("p\toffline",), "p became offline"), (("p\tdevice",), "the connection to p broke")],
)
def test_a_command_without_its_exit_code_is_a_broken_connection(stub, rows, what):
    path = stub(f"if [ \"$1\" = -s ]; then echo 'error: closed' >&2; exit 0; fi; {listing(*rows)}")
    with pytest.raises(DeviceError, match=what):
        AdbDevice(path, "p").shell("true", task="asking")


def test_old_devices_end_their_lines_with_carriage_returns(stub):
    path = stub('sh -c "$4" | tr "\\n" "\\r" | sed "s/\\r/\\r\\n/g"')
    result = AdbDevice(path, "p").shell("sh", "-c", "echo one; echo two; exit 3", task="asking")
    assert (result.code, result.output) == (3, "one\ntwo\n")


@pytest.fixture
def device(stub, tmp_path):
    """A device whose shell is this machine's, with the given programs in front."""

    def make(**programs: str) -> AdbDevice:
        folder = tmp_path / "device"
        folder.mkdir()
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return AdbDevice(stub(f'PATH={folder}:$PATH exec sh -c "$4"'), "p")

    return make


@pytest.mark.parametrize("word", ["", "two words", "$(id)", "`id`", "a'b\"c", "; exit 9", "-n", "*", "line\nbreak", "é\x07"])
def test_words_reach_the_device_as_they_are(device, word):
    result = device().shell("printf", "%s|", "x", word, task="asking")
    assert (result.code, result.output) == (0, f"x|{word}|")


HOSTILE = {
    "a colour": "\\033[31mred\\033[0m",
    "a title": "\\033]0;pwned\\007",
    "another key": "x\\n\\necho edgelm-exit-0:0",
    "shell text": '$(touch /tmp/pwned); `id`; "&& rm -rf /',
    "long": "A" * 100_000,
    "no text": "\\377\\376\\000",
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_hostile_properties_are_one_printable_line(device, value):
    quoted = value.replace("$", "\\$").replace('"', '\\"').replace("`", "\\`")
    answers = device(getprop=f'[ "$1" = ro.product.cpu.abi ] && echo x86_64 || printf "{quoted}\\n"')
    facts = adb_facts.ask(answers)
    assert facts.abi == "x86_64"
    for text in (facts.manufacturer, facts.model, facts.soc):
        assert len(text) <= adb_facts.MAX_ANSWER
        assert text.isprintable()
    assert facts.manufacturer
    assert facts.android_api == 0
    assert not Path("/tmp/pwned").exists()


def test_a_cpu_without_litert_is_refused(device):
    with pytest.raises(DeviceError, match="CPU is 'mips64'") as caught:
        adb_facts.ask(device(uname="echo mips64"))
    assert "arm64-v8a" in caught.value.allowed


@pytest.mark.parametrize(
    ("kernel", "named", "abi"), [("aarch64", "armeabi-v7a", "armeabi-v7a"), ("aarch64", "", "arm64-v8a"), ("i686", "riscv64", "x86")]
)
def test_the_property_decides_the_abi_else_the_kernel(device, kernel, named, abi):
    assert adb_facts.ask(device(uname=f"echo {kernel}", getprop=f"echo {named}")).abi == abi


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("IsStatusOverride: false\nThermal Status: 2\nCached temperatures:", 2),
        ("Thermal Status: 9", None),
        ("", None),
        ("Can't find service", None),
    ],
)
def test_the_thermal_status_is_read_where_there_is_one(device, answer, status):
    assert adb_facts.thermal_status(device(dumpsys=f"cat <<'EOF'\n{answer}\nEOF")) == status


def test_printable_cuts_and_cleans():
    assert printable("a\x1b[2J\tb\nc") == "a?[2J b c"
    assert len(printable("x" * 1000)) == 300
