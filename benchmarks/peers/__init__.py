"""The same models in every peer's format, timed side by side; `benchmarks/bench.py` is the command."""
