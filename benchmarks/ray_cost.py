"""What Ray costs: the same configs on one node of Ray's and by --jobs, as many at once, on this machine, in the same run: the bar is 1.15 ×.

    python -m benchmarks.ray_cost [--count 60] [--jobs 2] [--folder DIR]

Both begin with nothing kept. The cluster runs before the clock does, as a cluster does; what starting one costs is measured beside it, as are the figures
that `benchmarks/fleet_scaling.py` computes with: processor time of the driver for each config, bytes that travel, and what a task costs by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fleet_configs
from pipeline.fleet.node import FOLDER_VARIABLE
from pipeline.fleet.ray import travel
from pipeline.run.plan import Settings, plan


@dataclass(frozen=True)
class Cost:
    """Wall time and processor time of a command and what it waited for, in seconds."""

    wall_s: float
    processor_s: float


def cost(configs: list[Path], out: Path, *more: str) -> Cost:
    """Export configs; return what that costs this machine's clock and the command's own processes."""
    command = [sys.executable, "-m", "pipeline.commands", "export", *map(str, configs), "--trust", "benchmarks"]
    with out.with_suffix(".log").open("wb") as log:
        began_s = time.monotonic()
        process = subprocess.Popen([*command, "--no-benchmark", "--out", str(out), *more], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: see {out.with_suffix('.log')}")
    return Cost(time.monotonic() - began_s, used.ru_utime + used.ru_stime)


def task_s(count: int = 50) -> float:
    """Return the median time of a task that does nothing but tell where it is, one after the other."""
    import ray

    def nothing(word: str):
        yield word

    taken = []
    for _ in range(count):
        began_s = time.monotonic()
        for item in ray.remote(nothing).options(num_returns="streaming", max_retries=0).remote("here"):
            ray.get(item)
        taken.append(time.monotonic() - began_s)
    return statistics.median(taken)


def travelling(configs: list[Path], out: Path) -> tuple[float, float]:
    """Return how many bytes go to a node for a config, and how many come back, at the median."""
    settings = Settings(out=out, trust=("benchmarks",))
    there = [
        sum(each.stat().st_size for each in travel.pack(file, plan(file, settings), settings).here.values())
        for file in configs
    ]
    back = [sum(each.stat().st_size for each in (out / file.stem).rglob("*") if each.is_file()) for file in configs]
    return statistics.median(there), statistics.median(back)


def main() -> None:
    """Measure and print a table, and the figures as JSON."""
    import ray
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = fleet_configs.write(options.folder or folder / "configs", options.count)
        os.environ[FOLDER_VARIABLE] = str(folder / "node")
        jobs = ("--jobs", str(options.jobs))
        began_s = time.monotonic()
        cluster = Cluster()
        cluster.add_node(num_cpus=options.jobs, memory=8 << 30, resources={"weighbridge_node": 1})
        ray.init(cluster.address, log_to_driver=False, logging_level="FATAL")
        task_s(1)
        node_s = time.monotonic() - began_s
        alone_s = task_s()
        ray.shutdown()
        on = ("--on", f"ray://{cluster.address}")
        first = cost(configs[:1], folder / "first", *on, *jobs)
        halves = [configs[::2], configs[1::2]]  # in turn, so that what others do on this machine meets both
        here, there = [], []
        for index, half in enumerate(halves):
            pair = [(here, f"here-{index}", ()), (there, f"there-{index}", on)]
            for taken, out, more in pair if index == 0 else pair[::-1]:
                taken.append(cost(half, folder / out, *more, *jobs))
        sent, returned = travelling(halves[0], folder / "there-0")
        cluster.shutdown()
    wall = [sum(each.wall_s for each in taken) for taken in (here, there)]
    driver_s = (sum(each.processor_s for each in there) - len(there) * first.processor_s) / max(
        len(configs) - len(there), 1
    )
    print(f"| {len(configs)} configs, {options.jobs} at once | wall s |\n|---|---|")
    print(f"| --jobs | {wall[0]:.1f} |\n| one node of Ray's | {wall[1]:.1f} |\n| ratio | {wall[1] / wall[0]:.2f} |")
    figures = {
        "config_s": round(options.jobs * wall[0] / len(configs), 2),
        "driver_s": round(driver_s, 4),
        "task_s": round(alone_s, 4),
        "sent_bytes": round(sent),
        "returned_bytes": round(returned),
        "node_s": round(node_s, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
