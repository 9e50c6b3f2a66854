"""How long `weighbridge benchmark` of the shipped configs takes with their own budgets: the bar is 6 minutes together.

Releases of them must be there already (weighbridge export CONFIG --no-benchmark), as it is the benchmark that is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from pipeline.interface import in_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="artifacts")
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(Path("configs").glob("*.yaml")))
    options = parser.parse_args()
    total_s = 0.0
    print("| config | command s | benchmark s (budget) | size | launches | verdicts |\n|---|---|---|---|---|---|")
    for config in options.configs:
        began_s = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "pipeline.commands",
            "benchmark",
            str(config),
            "--out",
            options.out,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - began_s
        if done.returncode:
            print(f"| {config.stem} | – | {done.stderr.strip().splitlines()[-1]} | | | |")
            continue
        total_s += took_s
        document = json.loads(done.stdout)
        for size in document["sizes"]:
            rows = [
                row for row in size["rows"] if row["ratio"] and row["name"] not in (size["control"], size["reference"])
            ]
            told = "; ".join(f"{row['name']} {row['ratio']:.2f} {row['verdict']}" for row in rows)
            print(
                f"| {config.stem} | {took_s:.1f} | {document['elapsed_s']:.1f} ({document['budget_s']:g}) "
                f"| {in_words(size['sizes'])} | {len(size['samples']['launches'])} "
                f"| {told if size['can_tell'] else size['reason']} |",
                flush=True,
            )
    print(f"\n{total_s:.0f} s together")


if __name__ == "__main__":
    main()
