"""Export the same versions to one folder from many processes at once.

    python -m tests.sweeps.many [--processes COUNT] [--rounds COUNT]

Every release is whole, and each result is made exactly once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests import tiny
from tests.sweeps.tally import tally
from tests.test_together import export_together, test_a_killed_holder_of_every_lock_blocks_nobody


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=50)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.export(folder / "warm", 0)
        claim = f"{chosen.processes} processes × {chosen.rounds} rounds"
        failures = tally(claim, [folder / "out"], lambda out: export_together(out, chosen.processes, chosen.rounds))
        places = [folder / f"killed-{index}" for index in range(chosen.rounds)]
        for place in places:
            place.mkdir()
        failures += tally("a killed holder", places, test_a_killed_holder_of_every_lock_blocks_nobody)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
