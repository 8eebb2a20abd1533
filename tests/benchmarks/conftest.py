"""The benchmark's modules are imported as they are when `benchmarks/bench.py` runs: from its folder."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers" / "workers")]
