"""What the Gradle files of the demo say, for the offline build and the checks: one truth for both ways to build."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import EdgeLMError

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "app/src/main"
ANDROID = "{http://schemas.android.com/apk/res/android}"


@dataclass(frozen=True)
class AppSettings:
    """The `android` block of app/build.gradle.kts, with what it takes from the version catalog.

    Attributes:
        namespace: Package of R and of the manifest's relative names.
        application_id: Of the installed app.
        min_sdk: Oldest Android, an API level.
        target_sdk: Newest Android it was made for, an API level.
        version_code: Of the app.
        version_name: Of the app.
    """

    namespace: str
    application_id: str
    min_sdk: int
    target_sdk: int
    version_code: int
    version_name: str


def catalog(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The tables of gradle/libs.versions.toml."""
    return tomllib.loads((root / "gradle/libs.versions.toml").read_text(encoding="utf-8"))


def app_settings(root: Path = ROOT) -> AppSettings:
    """Reads the app's settings.

    Raises:
        EdgeLMError: A setting is missing or is not written as this reader expects it.
    """
    script = (root / "app/build.gradle.kts").read_text(encoding="utf-8")
    versions = catalog(root)["versions"]
    levels = {name: _setting(script, rf"{name} = libs\.versions\.(\w+)\.get\(\)\.toInt\(\)") for name in ("minSdk", "targetSdk")}
    return AppSettings(
        namespace=_setting(script, r'namespace = "([\w.]+)"'),
        application_id=_setting(script, r'applicationId = "([\w.]+)"'),
        min_sdk=int(str(versions[levels["minSdk"]])),
        target_sdk=int(str(versions[levels["targetSdk"]])),
        version_code=int(_setting(script, r"versionCode = (\d+)")),
        version_name=_setting(script, r'versionName = "([^"]+)"'),
    )


def java_files(*folders: Path) -> list[Path]:
    """All Java sources below some folders, sorted."""
    return sorted(file for folder in folders for file in folder.rglob("*.java"))


def _setting(script: str, pattern: str) -> str:
    found = re.search(pattern, script)
    if found is None:
        raise EdgeLMError(
            f"app/build.gradle.kts has no line like {pattern}", fix="write it that way, or change android_demo/tools/project.py"
        )
    return found[1]
