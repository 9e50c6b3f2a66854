"""Every fault of a worker in an export, in parity and in a benchmark, through the whole pipeline.

    python -m tests.sweeps.faults [FAULT…]

Each is reported by the backend's name while the others finish, leaves no process and no temporary, and is repeated by the
script that it leaves; a required one ends with exit code 4. Prints by how much time limits were overrun. In a race of
`weighbridge tune` whoever commits one drops out with that reason, and the others are told apart; the next run tries it again.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import product
from pathlib import Path

from tests import faults
from tests.sweeps.tally import tally
from tests.test_faults import survive_a_fault_in_a_race, survive_faults

LIMIT_S = 10.0
PATIENCE_S = 600.0


def main() -> int:
    chosen = sys.argv[1:] or [*faults.SAID]
    overruns_s: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        ended = faults.export(folder, folder / "out", {})
        assert ended.code == 0, ended.err

        def check(case: tuple[str, str, bool]) -> None:
            place, fault, required = case
            print(f"  {place}: {fault}, {'required' if required else 'optional'}", flush=True)
            limit_s = LIMIT_S if fault in faults.TIMED else PATIENCE_S
            over_s = survive_faults(folder, folder / "out", {place: fault}, required=required, limit_s=limit_s)
            overruns_s.extend([over_s] if fault in faults.TIMED else [])

        def race(fault: str) -> None:
            ended = survive_a_fault_in_a_race(folder, folder / "out", fault, limit_s=LIMIT_S)
            print(f"  tune: {fault}: {ended.seconds:.1f} s", flush=True)

        failures = tally("faults in a race", chosen, race)
        print(
            f"  tune: alone: {survive_a_fault_in_a_race(folder, folder / 'out', '_exit', limit_s=LIMIT_S, alone=True).seconds:.1f} s"
        )
        failures += tally("worker faults", product(faults.PLACES, chosen, (False, True)), check)
    if overruns_s:
        print(f"time limits of {LIMIT_S:g} s were overrun by at most {max(overruns_s):.2f} s")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
