"""What was made to exhaust whoever reads it is refused, within 200 MB over the start, and long before it is worked through.

The bar is 2 s of processor time; here five times that is allowed, as no test is to fail for a slow machine. Every fourth command is
run here, and all of them by `python -m tests.sweeps.bombs`.
"""

from __future__ import annotations

import json
import subprocess
import sys

MAX_SECONDS = 10.0
MAX_BYTES = 200 * 2**20
REFUSED = {1, 2, 3}  # a failed check, wrong input, unsafe: never 0, and never a crash or traceback (4)


def test_bombs_are_refused_by_every_command_in_little_time_and_memory(pristine, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.bombs", tmp_path, pristine, "4"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {row["command"] for row in rows} == {"inspect", "check", "parity", "predict", "verify"}
    assert len(rows) > 25
    wrong = [row for row in rows if row["code"] not in REFUSED or row["seen"]]
    costly = [row for row in rows if row["seconds"] > MAX_SECONDS or row["bytes"] > MAX_BYTES]
    assert wrong + costly == []
