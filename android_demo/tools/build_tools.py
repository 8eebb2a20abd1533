"""Google's Android build tools as Debian packages, in a folder of edgelm's cache: nothing is installed, no root rights are needed.

No Debian suite has all of them: aapt2, zipalign, apksigner and dexdump are bookworm's, dx and the platform classes of API 23 only
bullseye has, and the platform resources are trixie's (API 33), so that newer attributes of manifest and layouts are checked, too.
apt itself checks the signature of each suite's index and the hash of each package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelm.device.cache import cache_folder
from edgelm.device.debian_packages import PrivateApt, Purpose
from edgelm.errors import MissingDependencyError, RuntimeFailure

OnStage = Callable[[str], None]
PURPOSE = Purpose("Android's build tools", "make android")
DOWNLOAD_MB = 70
"""41 MB of packages and the indexes of three suites."""

PACKAGES: Mapping[str, Sequence[str]] = {
    "bookworm": (
        *("aapt", "apksigner", "dexdump", "libapksig-java", "libproguard-java", "zipalign"),
        *("android-libaapt", "android-libandroidfw", "android-libart", "android-libbacktrace", "android-libbase", "android-libcutils"),
        *("android-liblog", "android-libnativebridge", "android-libnativeloader", "android-libunwind", "android-libutils"),
        *("android-libziparchive", "libexpat1", "liblz4-1", "libpng16-16", "libprotobuf-lite32", "libtinyxml2-9", "libzopfli1"),
    ),
    "bullseye": ("dalvik-exchange", "libandroid-23-java", "p7zip-full"),
    "trixie": ("android-framework-res",),
}
BRIEF = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For a JVM that lives for seconds: a third of the CPU time is spared."""
JAVA = ("java", *BRIEF)
FOLDER = f"android-build-tools-{hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:8]}"
"""Another list of packages is another folder."""
LIBRARIES = ("usr/lib/x86_64-linux-gnu/android", "usr/lib/x86_64-linux-gnu", "usr/lib/p7zip", "usr/lib")


@dataclass(frozen=True)
class BuildTools:
    """The unpacked tools.

    Attributes:
        folder: With `usr` below it.
    """

    folder: Path

    @property
    def platform_classes(self) -> Path:
        """The classes of Android 6 (API 23), to compile against."""
        return self.folder / "usr/share/java/com.android.android-23.jar"

    @property
    def platform_resources(self) -> Path:
        """The resources of Android 13 (API 33), to link against."""
        return self.folder / "usr/share/android-framework-res/framework-res.apk"

    def native(self, tool: str, *arguments: str | Path) -> str:
        """Runs aapt2, zipalign or dexdump and gives what it prints."""
        libraries = ":".join(str(self.folder / library) for library in LIBRARIES)
        return run([self.folder / "usr/bin" / tool, *arguments], {"LD_LIBRARY_PATH": libraries})

    def dx(self, *arguments: str | Path) -> str:
        """Runs dx, which turns classes into a .dex file."""
        return run([*JAVA, "-cp", self.folder / "usr/share/java/com.android.dx.jar", "com.android.dx.command.Main", *arguments])

    def proguard(self, *arguments: str | Path) -> str:
        """Runs ProGuard."""
        return run([*JAVA, "-jar", self.folder / "usr/share/java/proguard.jar", *arguments])

    def apksigner(self, *arguments: str | Path) -> str:
        """Runs apksigner."""
        jars = ":".join(str(self.folder / "usr/share/java" / jar) for jar in ("apksigner.jar", "apksig.jar"))
        return run([*JAVA, "-cp", jars, "com.android.apksigner.ApkSignerTool", *arguments])


def fetched(on_stage: OnStage) -> BuildTools:
    """The tools, fetched once.

    Args:
        on_stage: Hears what is done, with its cost first.

    Raises:
        MissingDependencyError: No JDK.
        DebianPackagesError: No Debian's apt, no network, no room, or a package that fails its check.
    """
    _require_jdk()
    folder = cache_folder() / FOLDER
    if not folder.is_dir():
        on_stage(f"fetching the Android build tools: about {DOWNLOAD_MB} MB, once, into {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        downloads = folder.parent / f"{FOLDER}.apt"
        with tempfile.TemporaryDirectory(prefix=f".{FOLDER}.", dir=folder.parent) as temporary:
            for suite, names in PACKAGES.items():
                apt = PrivateApt(downloads / suite, PURPOSE, suites=(suite,))
                apt.unpack(apt.download(names), Path(temporary) / "tools")  # only these: the JDK they depend on is at hand
            (Path(temporary) / "tools").rename(folder)
        shutil.rmtree(downloads)
    return BuildTools(folder)


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """What a command prints on both streams.

    Raises:
        RuntimeFailure: It failed; the message ends with its last words.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeFailure(f"{Path(command[0]).name} failed:\n{done.stdout[-4000:].strip()}")
    return done.stdout


def _require_jdk() -> None:
    missing = [tool for tool in ("java", "javac", "keytool") if shutil.which(tool) is None]
    if missing:
        raise MissingDependencyError(
            f"building the app needs a JDK; this machine has no {', '.join(missing)}", fix="apt-get install openjdk-17-jdk-headless"
        )
