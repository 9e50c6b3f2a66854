"""How far `export --on ray` goes, on paper: a simulation with measured figures, to 1,000 nodes and 100,000 configs.

    python -m benchmarks.fleet_scaling [--figures '{"driver_s": …}'] [--slots 4]

The driver is one thread: it plans a config, hands its task to Ray, takes in what the task tells, and writes what came of it. So many tasks are handed over ahead
of time as the driver does (`_AHEAD` a core). A node starts, and takes its tasks in slots; a task sends its bytes over the driver's link before and
after it. Times of configs vary as lognormal ones do. The figures are those that `benchmarks/ray_cost.py` prints.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import dataclass

MEASURED = {
    "config_s": 8.0,  # one small network, with nothing else in its slot
    "driver_s": 0.1445,
    "task_s": 0.0041,
    "sent_bytes": 355_848,
    "returned_bytes": 1_265_565,
    "node_s": 6.6,
}
LINK_BYTES_S = 125e6  # 1 Gbit/s
_SPREAD, _AHEAD, _CORES_A_SLOT = 0.5, 2, 2


@dataclass(frozen=True)
class Run:
    """What a simulated run came to: its length, the share of it in which slots, driver and link worked."""

    seconds: float
    slots: float
    driver: float
    link: float


def simulated(nodes: int, configs: int, slots: int, figures: dict[str, float], seed: int = 0) -> Run:
    """Simulate one run. The driver's work for a config is done half when it is sent and half when it is taken in."""
    chance = random.Random(seed)
    driver_s = link_s = working_s = 0.0
    driver_free = link_free = now = 0.0
    free = [figures["node_s"]] * (nodes * slots)
    heapq.heapify(free)
    window, running = _AHEAD * _CORES_A_SLOT * nodes * slots, []
    for _ in range(configs):
        if len(running) >= window:  # the driver hands over no more before one ends
            now = heapq.heappop(running)
            driver_free = max(driver_free, now) + figures["driver_s"] / 2
            driver_s += figures["driver_s"] / 2
        driver_free += figures["driver_s"] / 2
        driver_s += figures["driver_s"] / 2
        sent_s = figures["sent_bytes"] / LINK_BYTES_S
        link_free = max(link_free, driver_free) + sent_s
        begins = max(heapq.heappop(free), link_free)
        took = (
            figures["task_s"] + chance.lognormvariate(0.0, _SPREAD) * figures["config_s"] / 1.133
        )  # its mean is 1.133
        returned_s = figures["returned_bytes"] / LINK_BYTES_S
        link_s += sent_s + returned_s
        working_s += took
        heapq.heappush(free, begins + took)
        heapq.heappush(running, begins + took + returned_s)
    for ended in sorted(running):
        driver_free = max(driver_free, ended) + figures["driver_s"] / 2
        driver_s += figures["driver_s"] / 2
    whole = max(driver_free, link_free)
    return Run(whole, working_s / (whole * nodes * slots), driver_s / whole, link_s / whole)


def main() -> None:
    """Print a table, and from where on the driver is what everything waits for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=json.loads, default={})
    parser.add_argument("--slots", type=int, default=4, help="exports at once on a node")
    options = parser.parse_args()
    figures = {**MEASURED, **options.figures}
    print("| nodes | configs | hours | slots busy | driver busy | link busy |\n|---|---|---|---|---|---|")
    for nodes in (1, 10, 100, 1000):
        for configs in (1_000, 10_000, 100_000):
            run = simulated(nodes, configs, options.slots, figures)
            shares = " | ".join(f"{each:.0%}" for each in (run.slots, run.driver, run.link))
            print(f"| {nodes:,} | {configs:,} | {run.seconds / 3600:.2f} | {shares} |")
    most = figures["config_s"] / (figures["driver_s"] * options.slots)
    bytes_each = figures["sent_bytes"] + figures["returned_bytes"]
    print(
        f"\nthe driver keeps {most:.0f} nodes busy; its link {figures['config_s'] * LINK_BYTES_S / bytes_each / options.slots:.0f}"
    )


if __name__ == "__main__":
    main()
