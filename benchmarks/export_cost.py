"""What a proven release costs over a bare export: wall time and processor time of both, in the same run, in turn.

    python benchmarks/export_cost.py [CONFIG…] [--pairs 5]

Each pair is `benchmarks/bare_export.py` (load, script or trace, export to ONNX, compare once) and `weighbridge export --no-benchmark
--rebuild` of the same config, which makes everything again; the first pair warms the file cache and does not count. Processor time is that
of a command with every process that it started. The ratio of medians is the figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BARE = Path(__file__).with_name("bare_export.py")
CONFIGS = (Path("configs/simplenet.yaml"), Path("configs/minilm.yaml"))


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds: on the wall, and of processors."""

    wall_s: float
    processor_s: float


def cost(command: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> Cost:
    """Run a command and return its cost; its output is shown where it ends with another exit code than those allowed."""
    with (folder / "output").open("w+b") as output:
        began_s = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment())
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in allowed:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output.read().decode()[-3000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


def environment() -> dict[str, str]:
    """Both find the networks of this folder, keep what they compile, and use the processors that there are."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}


def pairs(config: Path, count: int, folder: Path, *options: str) -> list[tuple[Cost, Cost]]:
    """Return the costs of a bare export and of ours, pair by pair."""
    bare = [sys.executable, str(BARE), str(config), str(folder)]
    ours = [sys.executable, "-m", "pipeline.commands", "export", str(config), "--no-benchmark", "--rebuild"]
    ours += ["--out", str(folder / "out"), *options]
    found = []
    for index in range(count + 1):
        pair = cost(bare, folder), cost(ours, folder)
        found.append(pair)
        print(f"  {index or 'warm-up'}: bare {_shown(pair[0])}, weighbridge {_shown(pair[1])}", file=sys.stderr)
    return found[1:]


def _shown(found: Cost) -> str:
    return f"{found.wall_s:.1f} s ({found.processor_s:.1f} s of processors)"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, default=CONFIGS)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print("| config | bare wall s | weighbridge wall s | ratio | bare processor s | weighbridge processor s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for config in options.configs:
        with tempfile.TemporaryDirectory() as folder:
            found = pairs(config, options.pairs, Path(folder))
        columns: list[str] = [config.stem]
        for kind in ("wall_s", "processor_s"):
            bare, ours = (statistics.median(getattr(pair[index], kind) for pair in found) for index in (0, 1))
            columns += [f"{bare:.1f}", f"{ours:.1f}", f"**{ours / bare:.2f}**"]
        print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
