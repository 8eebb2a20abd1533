"""The scripts of android_demo/tools, importable."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "android_demo"
sys.path.insert(0, str(DEMO / "tools"))

import apk  # noqa: E402
import apk_checks  # noqa: E402
import build_tools  # noqa: E402
import project_checks  # noqa: E402

__all__ = ["DEMO", "apk", "apk_checks", "build_tools", "project_checks"]
