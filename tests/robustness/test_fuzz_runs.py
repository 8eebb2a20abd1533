"""The fuzz harness itself: what kills, hangs or floods a worker is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_runs import WORKER, fuzz

BAD = {
    "crash": ("import os; os.kill(os.getpid(), 11)", "case 1 ended the process: -11"),
    "hang": ("while True: pass", "case 1 ended the process: -14"),
    "flood": ("bytearray(3 << 30)", "case 1 escaped: MemoryError"),
    "other": ("{}['key']", "case 1 escaped: KeyError"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "failure"), BAD.values(), ids=BAD.keys())
def test_a_bad_case_is_found_and_the_others_go_on(code: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(
        "import sys, types; import fuzz_worker as worker; worker.SECONDS = 1\n"
        "from edgelm.errors import SourceError\n"
        "def damage(source, target, random):\n"
        "    damage.number += 1\n"
        "    return damage.number\n"
        "def read(number):\n"
        f"    if number == NUMBER:\n        {code}\n"
        "    raise SourceError('refused')\n"
        "import json; damage.number = json.loads(sys.argv[1])['first'] - 1; NUMBER = 1\n"
        "worker.KINDS['stub'] = (damage, read)\n"
        "worker.main(sys.argv[1])\n"
    )
    monkeypatch.setattr("fuzz_runs.WORKER", stub)
    monkeypatch.syspath_prepend(str(WORKER.parent))
    found = fuzz("stub", tmp_path, tmp_path / "damaged", seed=0, cases=4)
    assert len(found.failures) == 1
    assert found.failures[0].startswith(failure)
    assert found.outcomes["SourceError"] == 3
