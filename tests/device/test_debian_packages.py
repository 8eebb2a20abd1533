"""Debian packages: what apt is told, what is said when it fails, and, from a real mirror, what is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.device.debian_packages import MIRROR_VARIABLE, Package, PrivateApt, Purpose
from edgelm.errors import DebianPackagesError

PURPOSE = Purpose("the kettle", "make kettle", instead="drink water")
Way = Callable[[PrivateApt, list[str]], tuple[Package, ...]]
WAYS: tuple[Way, ...] = (PrivateApt.fetch, PrivateApt.download)


def fake_apt(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, **settings: object) -> PrivateApt:
    """An apt that knows one mirror, prints `said` to stderr and fails."""
    tools = folder / "tools"
    tools.mkdir()
    uris = "'http://mirror.example/debian/dists/bookworm/InRelease' x 0\n'http://other.example/dists/nodistro/InRelease' y 0"
    script = f'#!/bin/sh\ncase "$*" in *print-uris*) cat <<"E"\n{uris}\nE\n;; *) cat >&2 <<"E"\n{said}\nE\nexit 100;; esac\n'
    dump = '#!/bin/sh\ncat <<"E"\nAcquire::http::Proxy "http://proxy.example:3128";\nAPT::Architecture "mips";\nE\n'
    for name, text in (("apt-get", script), ("apt-config", dump), ("dpkg-deb", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"})
    return PrivateApt(folder / "apt", PURPOSE, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS, ids=["fetch", "download"])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("E: Failed to fetch http://x  Could not resolve 'x'", "mirror cannot be reached"),
        ("E: You don't have enough free space in /x", "disk is full"),
        ("E: GPG error: NO_PUBKEY 1", "fails apt's check"),
        ("E: Failed to fetch http://x  Hash Sum mismatch", "fails apt's check"),
        ("E: Something else", "apt-get update failed: E: Something else"),
    ],
)
def test_what_apt_says_is_translated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, message: str, way: Way) -> None:
    with pytest.raises(DebianPackagesError, match=message) as error:
        way(fake_apt(tmp_path, monkeypatch, said), ["qemu-user"])
    assert error.value.fix.endswith("make kettle goes on where it stopped")


def test_a_machine_without_apt_is_told_what_does_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DebianPackagesError, match="needed for the kettle, and this machine has no apt-get and no dpkg-deb") as error:
        PrivateApt(tmp_path / "apt", PURPOSE).download(["zlib1g"])
    assert error.value.fix == "in a container of Debian 12: make kettle, or drink water"
    assert not list(tmp_path.iterdir())


def test_mirror_and_proxy_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = fake_apt(tmp_path, monkeypatch, "E: no")
    with pytest.raises(DebianPackagesError):
        apt.fetch(["qemu-user"])
    assert apt.mirror() == "http://mirror.example/debian"
    assert " http://mirror.example/debian bookworm main" in (apt.folder / "sources.list").read_text()
    configuration = (apt.folder / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.example:3128";' in configuration
    assert "mips" not in configuration


def test_suites_and_architecture_are_those_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = fake_apt(tmp_path, monkeypatch, "E: no", suites=("bookworm-backports", "bookworm"), architecture="arm64")
    with pytest.raises(DebianPackagesError):
        apt.download(["adbd"])
    sources = (apt.folder / "sources.list").read_text().splitlines()
    assert [line.split()[-2] for line in sources] == ["bookworm-backports", "bookworm"]
    assert all(line.startswith("deb [arch=arm64") for line in sources)
    assert 'APT::Default-Release "bookworm-backports";' in (apt.folder / "apt.conf").read_text()


def test_without_a_mirror_of_debian_one_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = fake_apt(tmp_path, monkeypatch, "E: no")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "noble", "PRETTY_NAME": "Ubuntu"})
    with pytest.raises(DebianPackagesError, match=r"Ubuntu\) knows no mirror of Debian, which has the kettle") as error:
        apt.fetch(["qemu-user"])
    assert MIRROR_VARIABLE in error.value.allowed
    assert error.value.fix.endswith("=URL make kettle")
    monkeypatch.setenv(MIRROR_VARIABLE, "http://named.example/debian/")
    with pytest.raises(DebianPackagesError, match="E: no"):
        apt.fetch(["qemu-user"])
    assert " http://named.example/debian bookworm main" in (apt.folder / "sources.list").read_text()


@pytest.mark.slow
def test_a_second_try_gives_what_the_first_has_fetched(tmp_path: Path) -> None:
    """apt lists only what it would still fetch, unless it is asked with an empty folder."""
    apt = PrivateApt(tmp_path / "apt", PURPOSE)
    try:
        first = apt.fetch(["zlib1g"])
    except DebianPackagesError as error:
        pytest.skip(f"no package can be fetched here: {error.what}")
    assert [package.name for package in first] == ["gcc-12-base", "libc6", "libgcc-s1", "zlib1g"]
    written = [package.file.stat().st_mtime_ns for package in first]
    assert apt.fetch(["zlib1g"]) == first
    assert [package.file.stat().st_mtime_ns for package in first] == written
    (zlib,) = apt.download(["zlib1g"])
    assert zlib == first[-1]
    apt.unpack([zlib], tmp_path / "root")
    assert (tmp_path / "root/usr/share/doc/zlib1g/copyright").is_file()


@pytest.mark.slow
def test_packages_of_another_architecture_come_from_the_first_suite_that_has_them(tmp_path: Path) -> None:
    apt = PrivateApt(tmp_path / "apt", PURPOSE, ("bookworm-backports", "bookworm"), "arm64")
    try:
        adbd, dash = apt.download(["dash", "adbd"])
    except DebianPackagesError as error:
        pytest.skip(f"no package can be fetched here: {error.what}")
    assert "~bpo12" in adbd.version
    assert "~bpo12" not in dash.version
    assert adbd.file.name.endswith("_arm64.deb")
