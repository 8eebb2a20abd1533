"""Starts a command, waits for it and writes what it took: `python -S -E launch.py RESULT.json COMMAND ...`.

A process of its own because a child's peak memory counts what its parent held when it was started: this one holds little.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    result, command = sys.argv[1], sys.argv[2:]
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    took = {
        "seconds": time.perf_counter() - start,
        "code": os.waitstatus_to_exitcode(status),
        "peak_mb": used.ru_maxrss * 1024 / 1e6,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }
    Path(result).write_text(json.dumps(took))


if __name__ == "__main__":
    main()
