"""Interrupt and terminate a real export, timing included, at random moments.

    python -m tests.sweeps.signals [--moments COUNT] [--seed SEED]

It exits with 130 or 143, leaves no process and no temporary, and the next run goes on and ends with the bytes of an
undisturbed one. Prints how long stopping took.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import faults, tiny, tuned
from tests.sweeps.tally import tally
from tests.test_interruption import SEED, stop_a_run

TIMED = ("--set", "benchmark.seconds=4")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args()
    took_s: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        whole, out = folder / "whole", folder / "out"
        ended = faults.weighbridge("export", "configs/simplenet.yaml", "--out", whole, *TIMED)
        assert ended.code == 0, ended.err
        print(f"an undisturbed run takes {ended.seconds:.1f} s", flush=True)
        expected = tiny.versions(whole)

        def check(case: tuple[signal.Signals, float]) -> None:
            number, moment_s = case
            shutil.rmtree(out, ignore_errors=True)

            took_s.append(stop_a_run(out, number=number, when=lambda _: time.sleep(moment_s), options=TIMED))
            again = faults.weighbridge("export", "configs/simplenet.yaml", "--out", out, *TIMED, "--no-benchmark")
            assert again.code == 0, again.err
            assert tiny.versions(out) == expected
            assert tiny.temporaries(out) == []
            print(f"  {number.name} after {moment_s:5.2f} s: ended in {took_s[-1]:.2f} s", flush=True)

        rng = random.Random(chosen.seed)
        cases = [
            (number, rng.uniform(0, ended.seconds))
            for number in (signal.SIGINT, signal.SIGTERM)
            for _ in range(chosen.moments)
        ]
        failures = tally("signals", cases, check)
        line = ("tune", "configs/simplenet.yaml", "--seconds", 2, "--out", out)
        shutil.rmtree(out, ignore_errors=True)
        raced = faults.weighbridge(*line)
        assert raced.code == 0, raced.err
        whole_ones = tiny.versions(out)

        def check_race(case: tuple[signal.Signals, float]) -> None:
            number, moment_s = case
            wait = lambda _: time.sleep(moment_s)  # noqa: E731
            took_s.append(
                stop_a_run(out, number=number, when=wait, options=("--seconds", "2", "--again"), command="tune")
            )
            tuned.require_whole(out, whole_ones)
            again = faults.weighbridge(*line)
            assert again.code == 0, again.err
            tuned.require_whole(out, whole_ones)
            assert tiny.temporaries(out) == []
            print(f"  tune, {number.name} after {moment_s:5.2f} s: ended in {took_s[-1]:.2f} s", flush=True)

        cases = [(number, rng.uniform(0, raced.seconds)) for number, _ in cases[:: max(1, chosen.moments // 6)]]
        failures += tally("signals, a race", cases, check_race)
    print(f"ended within {max(took_s):.2f} s at the latest, {sorted(took_s)[len(took_s) // 2]:.2f} s in the median")
    return int(failures > 0 or max(took_s) > 5)


if __name__ == "__main__":
    sys.exit(main())
