"""How often a variant slowed by a known share is called slower: the bar is 90 % of runs, and never faster.

The slowed process waits after each call for 5 % of what the call took (10 % with --loaded, which also loads every core in
bursts, as benchmarks/false_alarms.py does). Everything else is as a benchmark's default, but for half the time.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.false_alarms import loaded, session, write_model
from pipeline.benchmark import rounds
from pipeline.benchmark.measurements import Plan
from pipeline.benchmark.statistics import analyse
from pipeline.config import BenchmarkConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=BenchmarkConfig().seconds / 2)
    parser.add_argument("--margin", type=float, default=BenchmarkConfig().margin)
    parser.add_argument("--loaded", action="store_true", help="slow by 10 %%, under bursts of load on every core")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    slowed = 0.10 if options.loaded else 0.05
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, loaded(options.seed) if options.loaded else contextlib.nullcontext():
        model = Path(folder) / "model.onnx"
        write_model(model)
        arms = [
            rounds.Arm("plain", lambda: session(model, 1)),
            rounds.Arm("slowed", lambda: session(model, 1, slowed)),
        ]
        for index in range(options.runs):
            samples = rounds.run(
                arms,
                reference="plain",
                scenarios=["model"],
                plan=Plan(seconds=options.seconds),
                clock=time.monotonic,
                rng=random.Random(options.seed + index),
                progress=lambda _: None,
            )["model"]
            row = next(each for each in analyse(samples, margin=options.margin).rows if each.name == "slowed")
            said[row.verdict] += 1
            print(index + 1, row.verdict, row.ratio, row.interval, file=sys.stderr, flush=True)
    print(f"slowed by {slowed:.0%}{', under load' if options.loaded else ''}: {dict(said)} in {options.runs} runs")


if __name__ == "__main__":
    main()
