"""Debian packages in a folder: fetched with a private apt configuration, unpacked without being installed.

apt itself resolves what the packages need, from nothing, checks the signature of the archive's index and the hash of each package, and
goes on with what an earlier try has fetched. The system's own apt and dpkg files are read for the mirror, the keyring and the network
settings, and never written; no root rights are needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from edgelm.errors import EmulatorError

SUITE = "bookworm"
"""Debian 12: QEMU 7.2 and GCC 12 whatever Debian the machine itself runs, so that figures don't depend on it."""

MIRROR_VARIABLE = "EDGELM_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OWN_SUITES = ("stable", "oldstable", "testing", "unstable", "sid")
PATIENCE_S = 1800.0
"""Longest one apt command may take, s: 100 MB at 0.5 Mbit/s."""

CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{folder}/none";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{folder}/none";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/none";
Dir::Log "{folder}/log";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "{user}";
APT::Update::Error-Mode "any";
Acquire::Retries "2";
{network}
"""


@dataclass(frozen=True)
class Package:
    """A fetched package: its name, version and file."""

    name: str
    version: str
    file: Path


@dataclass(frozen=True)
class PrivateApt:
    """apt with all of its state in one folder.

    Args:
        folder: Kept until the packages are unpacked: it holds what was fetched already.

    Example:
        >>> apt = PrivateApt(Path("build/apt"))
        >>> [package.name for package in apt.fetch(["zlib1g"])]
        ['gcc-12-base', 'libc6', 'libgcc-s1', 'zlib1g']
    """

    folder: Path

    def fetch(self, names: Sequence[str]) -> tuple[Package, ...]:
        """Fetches packages with everything they depend on.

        Args:
            names: Of Debian 12.

        Returns:
            All packages, by name.

        Raises:
            EmulatorError: No apt, no mirror of Debian, no network, no room, or a package that fails its check.
        """
        require_tools()
        for sub in ("state/lists/partial", "cache/archives/partial", "none", "log"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        settings = {"folder": self.folder, "user": "root" if os.geteuid() == 0 else "_apt", "network": _network_settings()}
        (self.folder / "apt.conf").write_text(CONFIGURATION.format(**settings), encoding="utf-8")
        signed = f" signed-by={KEYRING}" if KEYRING.is_file() else ""
        source = f"deb [arch=amd64{signed}] {self._mirror()} {SUITE} main\n"
        (self.folder / "sources.list").write_text(source, encoding="utf-8")
        self._apt("update")
        wanted = self._apt("install", "--yes", "--print-uris", *names)
        self._apt("install", "--yes", "--download-only", *names)
        archives = self.folder / "cache" / "archives"
        files = re.findall(r"^'[^']*' (\S+\.deb) \d+", wanted, re.MULTILINE)
        return tuple(sorted((_package(archives / file) for file in files), key=lambda package: package.name))

    def _mirror(self) -> str:
        """The mirror of Debian this machine uses, from its own apt configuration."""
        if named := os.environ.get(MIRROR_VARIABLE):
            return named.rstrip("/")
        release = platform.freedesktop_os_release()
        own = {release.get("VERSION_CODENAME", SUITE), *OWN_SUITES}
        lists = ["-o", f"Dir::State::Lists={self.folder / 'state' / 'lists'}"]
        uris = _run(["apt-get", "update", "--print-uris", *lists], {}, "reading the machine's own apt configuration")
        found = [base for base, suite in re.findall(r"^'(\S+?)/dists/([^/']+)/InRelease'", uris, re.MULTILINE) if suite in own]
        if release.get("ID") != "debian" or not found:
            raise EmulatorError(
                f"this machine's apt ({release.get('PRETTY_NAME', 'no Debian')}) knows no mirror of Debian, which has the emulator",
                allowed=f"Debian, or {MIRROR_VARIABLE}=URL of a Debian mirror with {KEYRING}",
                fix=f"apt-get install debian-archive-keyring && {MIRROR_VARIABLE}=URL edgelm doctor --setup-arm64",
            )
        return str(found[0])

    def _apt(self, *arguments: str) -> str:
        return _run(["apt-get", *arguments], {"APT_CONFIG": str(self.folder / "apt.conf")}, f"apt-get {arguments[0]}")


def require_tools() -> None:
    """Refuses a machine without apt and dpkg.

    Raises:
        EmulatorError: One of them is missing.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise EmulatorError(
            f"the emulator is fetched as Debian packages, and this machine has no {' and no '.join(missing)}",
            allowed="Debian or Ubuntu on x86-64",
            fix="run edgelm in a container of Debian 12, or measure on a phone: edgelm profile ARTIFACT --device adb",
        )


def unpack(packages: Sequence[Package], folder: Path) -> None:
    """Unpacks packages into a folder, over one another.

    Raises:
        EmulatorError: A file is damaged, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        _run(["dpkg-deb", "-x", str(package.file), str(folder)], {}, f"unpacking {package.name}")


def _package(file: Path) -> Package:
    name, version, _ = file.stem.split("_")
    return Package(name, unquote(version), file)


def _network_settings() -> str:
    """The machine's own proxies, certificates and time-outs, as lines of a configuration."""
    dump = _run(["apt-config", "dump"], {}, "reading the machine's own apt configuration")
    wanted = re.compile(r"^Acquire::(http|https|ftp|Check-|Max-ValidTime|ForceIPv)\S* \"[^\"]+\";$", re.IGNORECASE)
    return "\n".join(line for line in dump.splitlines() if wanted.match(line))


def _run(command: Sequence[str], environment: Mapping[str, str], task: str) -> str:
    """What a command prints.

    Raises:
        EmulatorError: It failed or took too long.
    """
    variables = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **environment}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EmulatorError(f"{task} took more than {PATIENCE_S:.0f} s", fix=AGAIN) from error
    except OSError as error:
        raise EmulatorError(f"{task}: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise _failure(task, done.stderr)
    return done.stdout


AGAIN = "edgelm doctor --setup-arm64 goes on where it stopped"


def _failure(task: str, said: str) -> EmulatorError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if line.startswith(("E:", "dpkg-deb:"))), lines[0] if lines else "no message")
    if re.search(r"No space left on device|not enough free space|don't have enough free space", said):
        return EmulatorError(f"the disk is full: {task}: {first}", fix="free 1 GB, or EDGELM_CACHE=FOLDER on another disk; " + AGAIN)
    if re.search(r"NO_PUBKEY|not signed|GPG error|Hash Sum mismatch|unexpected size", said):
        return EmulatorError(f"what the mirror sent fails apt's check: {first}", fix=f"another mirror: {MIRROR_VARIABLE}=URL; " + AGAIN)
    if re.search(r"Failed to fetch|Could not resolve|Could not connect|Temporary failure|timed out|Unable to fetch", said):
        return EmulatorError(f"the Debian mirror cannot be reached: {first}", fix="check the network and apt's proxy; " + AGAIN)
    return EmulatorError(f"{task} failed: {first}", fix=AGAIN)
