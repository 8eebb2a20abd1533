"""Debian packages in a folder: fetched with a private apt configuration, unpacked without being installed.

apt itself resolves what the packages need, from nothing, checks the signature of each suite's index and the hash of each package, and
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

from edgelm.errors import DebianPackagesError

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
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "{preferred}";
APT::Get::Assume-Yes "true";
APT::Get::Download-Only "true";
APT::Install-Recommends "false";
APT::Sandbox::User "{user}";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
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
class Purpose:
    """What packages are fetched for, as the messages of errors say it.

    Attributes:
        what: Such as `the emulator of arm64 cores`.
        command: That fetches them, and goes on where an earlier call stopped.
        instead: What does without them; empty when nothing does.
    """

    what: str
    command: str
    instead: str = ""

    @property
    def again(self) -> str:
        """The fix of what another try may mend."""
        return f"{self.command} goes on where it stopped"


@dataclass(frozen=True)
class PrivateApt:
    """apt with all of its state in one folder.

    Args:
        folder: Kept until the packages are unpacked: it holds what was fetched already.
        purpose: What the packages are for.
        suites: Of Debian. A package that several of them have comes from the first of them.
        architecture: Debian's name of it, such as `amd64`; need not be this machine's.

    Example:
        >>> apt = PrivateApt(Path("build/apt"), Purpose("the test", "make test"))
        >>> [package.name for package in apt.fetch(["zlib1g"])]
        ['gcc-12-base', 'libc6', 'libgcc-s1', 'zlib1g']
        >>> [package.name for package in apt.download(["zlib1g"])]
        ['zlib1g']
    """

    folder: Path
    purpose: Purpose
    suites: tuple[str, ...] = (SUITE,)
    architecture: str = "amd64"

    def require_tools(self) -> None:
        """Refuses a machine without apt and dpkg.

        Raises:
            DebianPackagesError: One of them is missing.
        """
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            fixes = (f"in a container of Debian 12: {self.purpose.command}", self.purpose.instead)
            raise DebianPackagesError(
                f"Debian packages are needed for {self.purpose.what}, and this machine has no {' and no '.join(missing)}",
                allowed="Debian or Ubuntu",
                fix=", or ".join(fix for fix in fixes if fix),
            )

    def fetch(self, names: Sequence[str]) -> tuple[Package, ...]:
        """Fetches packages with everything they depend on.

        Args:
            names: Of the suites.

        Returns:
            All packages, by name.

        Raises:
            DebianPackagesError: No apt, no mirror of Debian, no network, no room, or a package that fails its check.
        """
        return self._fetched("install", names)

    def download(self, names: Sequence[str]) -> tuple[Package, ...]:
        """Fetches packages without what they depend on.

        Args:
            names: Of the suites.

        Returns:
            These packages, by name.

        Raises:
            DebianPackagesError: As for `fetch`.
        """
        return self._fetched("download", names)

    def unpack(self, packages: Sequence[Package], folder: Path) -> None:
        """Unpacks packages into a folder, over one another.

        Raises:
            DebianPackagesError: A file is damaged, or the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for package in packages:
            self._run(["dpkg-deb", "-x", str(package.file), str(folder)], f"unpacking {package.name}")

    def mirror(self) -> str:
        """The mirror of Debian: the one `EDGELM_DEBIAN_MIRROR` names, else the one of this machine's own apt configuration.

        Raises:
            DebianPackagesError: Neither.
        """
        if named := os.environ.get(MIRROR_VARIABLE):
            return named.rstrip("/")
        release = platform.freedesktop_os_release()
        own = {release.get("VERSION_CODENAME", SUITE), *OWN_SUITES}
        lists = ["-o", f"Dir::State::Lists={self.folder / 'state' / 'lists'}"]
        uris = self._run(["apt-get", "update", "--print-uris", *lists], "reading the machine's own apt configuration")
        found = [base for base, suite in re.findall(r"^'(\S+?)/dists/([^/']+)/InRelease'", uris, re.MULTILINE) if suite in own]
        if release.get("ID") != "debian" or not found:
            raise DebianPackagesError(
                f"this machine's apt ({release.get('PRETTY_NAME', 'no Debian')}) knows no mirror of Debian, which has {self.purpose.what}",
                allowed=f"Debian, or {MIRROR_VARIABLE}=URL of a Debian mirror with {KEYRING}",
                fix=f"apt-get install debian-archive-keyring && {MIRROR_VARIABLE}=URL {self.purpose.command}",
            )
        return str(found[0])

    def _fetched(self, command: str, names: Sequence[str]) -> tuple[Package, ...]:
        """What a command of apt-get fetches, by name."""
        self._update()
        archives, nothing = self.folder / "cache" / "archives", self.folder / "none"
        here = f"Dir::Cache::Archives={nothing}"  # else what an earlier try has fetched is not listed
        listed = self._apt(nothing, command, "--print-uris", "-o", here, *names)
        self._apt(archives, command, *names)
        files = re.findall(r"^'[^']*' (\S+\.deb) \d+", listed, re.MULTILINE)
        return tuple(sorted((_package(archives / file) for file in files), key=lambda package: package.name))

    def _update(self) -> None:
        """Writes the configuration and fetches the suites' indexes."""
        self.require_tools()
        for sub in ("state/lists/partial", "cache/archives/partial", "none/partial", "log"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        configuration = CONFIGURATION.format(
            folder=self.folder,
            architecture=self.architecture,
            preferred=self.suites[0],
            user="root" if os.geteuid() == 0 else "_apt",
            network=self._network_settings(),
        )
        (self.folder / "apt.conf").write_text(configuration, encoding="utf-8")
        signed = f" signed-by={KEYRING}" if KEYRING.is_file() else ""
        mirror = self.mirror()
        sources = "".join(f"deb [arch={self.architecture}{signed}] {mirror} {suite} main\n" for suite in self.suites)
        (self.folder / "sources.list").write_text(sources, encoding="utf-8")
        self._apt(self.folder, "update")

    def _network_settings(self) -> str:
        """The machine's own proxies, certificates and time-outs, as lines of a configuration."""
        dump = self._run(["apt-config", "dump"], "reading the machine's own apt configuration")
        wanted = re.compile(r"^Acquire::(http|https|ftp|Check-|Max-ValidTime|ForceIPv)\S* \"[^\"]+\";$", re.IGNORECASE)
        return "\n".join(line for line in dump.splitlines() if wanted.match(line))

    def _apt(self, folder: Path, *arguments: str) -> str:
        """Runs apt-get in a folder: `download` writes to it."""
        return self._run(["apt-get", *arguments], f"apt-get {arguments[0]}", {"APT_CONFIG": str(self.folder / "apt.conf")}, folder)

    def _run(self, command: Sequence[str], task: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
        """What a command prints.

        Raises:
            DebianPackagesError: It failed or took too long.
        """
        variables = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(environment or {})}
        try:
            done = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DebianPackagesError(f"{task} took more than {PATIENCE_S:.0f} s", fix=self.purpose.again) from error
        except OSError as error:
            raise DebianPackagesError(f"{task}: {command[0]} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            raise _failure(task, done.stderr, self.purpose.again)
        return done.stdout


def _package(file: Path) -> Package:
    name, version, _ = file.stem.split("_")
    return Package(name, unquote(version), file)


def _failure(task: str, said: str, again: str) -> DebianPackagesError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if line.startswith(("E:", "dpkg-deb:"))), lines[0] if lines else "no message")
    if re.search(r"No space left on device|not enough free space|don't have enough free space", said):
        what, fix = f"the disk is full: {task}: {first}", "free 1 GB, or EDGELM_CACHE=FOLDER on another disk; "
    elif re.search(r"NO_PUBKEY|not signed|GPG error|Hash Sum mismatch|unexpected size", said):
        what, fix = f"what the mirror sent fails apt's check: {first}", f"another mirror: {MIRROR_VARIABLE}=URL; "
    elif re.search(r"Failed to fetch|Could not resolve|Could not connect|Temporary failure|timed out|Unable to fetch", said):
        what, fix = f"the Debian mirror cannot be reached: {first}", "check the network and apt's proxy; "
    else:
        what, fix = f"{task} failed: {first}", ""
    return DebianPackagesError(what, fix=fix + again)
