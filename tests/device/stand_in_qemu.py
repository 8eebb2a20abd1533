"""Stands in for QEMU with the runner inside it, for two calls: does what the environment variable STAND_IN says."""

import os
import sys
import time

CRASH = "qemu: uncaught target signal 11 (Segmentation fault) - core dumped\n"


def main(words: list[str]) -> int:
    kind = os.environ["STAND_IN"]
    value = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("-")}
    if kind == "crash":
        sys.stderr.write(CRASH)
        return -11
    if kind == "error":
        sys.stderr.write("error: the model cannot be read\n")
        return 1
    if kind == "hang":
        time.sleep(60)
    runs = 0 if kind == "uncounted" else 2 * int(value["--repeat"])
    with open(value["-D"], "w") as log:  # noqa: PTH123 (no import that costs time)
        log.write('edgelm {"phase": 1, "total": 5}\nedgelm {"phase": 2, "total": 7}\n')
        log.writelines(f'edgelm {{"phase": 3, "total": {100 + run}}}\n' for run in range(runs))
    with open(value["--outputs"], "wb") as outputs:  # noqa: PTH123
        outputs.write(bytes(int(os.environ["OUTPUT_BYTES"]) - (4 if kind == "short" else 0)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
