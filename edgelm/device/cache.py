"""Where edgelm keeps what it fetched or built."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$EDGELM_CACHE`, else `$XDG_CACHE_HOME/edgelm`, else `~/.cache/edgelm`; it need not exist."""
    if named := os.environ.get("EDGELM_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "edgelm"
