"""How often the 95 % interval holds the true ratio: the bar is 93 to 97 %.

Two programs are timed in simulation by the design of pipeline/benchmark/rounds.py: 6 launches with an effect of their own
on each program, rounds in random order, noise on every block, and bursts of foreign load that last for several blocks and
slow them by a heavy-tailed factor. The statistics are those that judge real runs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.statistics import t_interval

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = NDArray[np.floating[Any]]
TRUE_RATIO = 1.05


def launch_logs(
    rng: np.random.Generator, effects: Callable[[tuple[int, ...]], Floats], shape: tuple[int, int], rounds: int
) -> Floats:
    """Simulated median log-ratios, of `shape` (runs, launches)."""
    turns = rng.normal(0, 0.01, (*shape, rounds, 2)) + np.log(bursts(rng, (*shape, rounds * 2))).reshape(
        *shape, rounds, 2
    )
    reference_first = rng.random((*shape, rounds)) < 0.5
    later_over_earlier = turns[..., 1] - turns[..., 0]
    in_rounds = np.where(reference_first, later_over_earlier, -later_over_earlier)
    of_programs = effects((*shape, 2))
    return np.asarray(np.log(TRUE_RATIO) + of_programs[..., 1] - of_programs[..., 0] + np.median(in_rounds, axis=-1))


def bursts(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Slow-down of each block in time: load starts with 10 % a block, ends with 40 %, and costs 1 + 0.1 × Pareto(1.5)."""
    switch = rng.random(shape)
    cost = 1 + 0.1 * rng.pareto(1.5, shape)
    busy = np.zeros(shape[:-1], dtype=bool)
    slow = np.ones(shape)
    for block in range(shape[-1]):
        busy = np.where(busy, switch[..., block] > 0.4, switch[..., block] < 0.1)
        slow[..., block] = np.where(busy, cost[..., block], 1.0)
    return slow


def worlds(rng: np.random.Generator) -> dict[str, Callable[[tuple[int, ...]], Floats]]:
    """What a launch does to a program's time, as a log: by name."""
    return {
        "none": np.zeros,
        "normal, sd 1 %": lambda shape: rng.normal(0, 0.01, shape),
        "two levels, 2 % apart": lambda shape: 0.02 * rng.integers(0, 2, shape),
        "one launch in five 3 % slower": lambda shape: 0.03 * (rng.random(shape) < 0.2),
        "exponential, mean 1 %": lambda shape: rng.exponential(0.01, shape),
        "Student's t with 3 degrees": lambda shape: 0.01 * rng.standard_t(3, shape),
        # The worst case for t: one program only, to one side only; its mean is taken for the truth.
        "one program's, exponential": lambda shape: (rng.exponential(0.01, shape) - 0.01) * np.array([0, 1]),
    }


def coverage(logs: Floats, confidence: float) -> tuple[float, float]:
    """Share of runs whose interval holds the true ratio, and the mean width of the interval."""
    low, high = t_interval(logs, confidence)
    truth = np.log(TRUE_RATIO)
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(np.exp(high) - np.exp(low)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"{options.runs} runs of {options.launches} launches of {options.rounds} rounds with bursts of load")
    for name, effects in worlds(rng).items():
        logs = launch_logs(rng, effects, (options.runs, options.launches), options.rounds)
        held, width = coverage(logs, options.confidence)
        extremes = np.mean((logs.min(axis=-1) <= np.log(TRUE_RATIO)) & (np.log(TRUE_RATIO) <= logs.max(axis=-1)))
        print(f"launch effects: {name:<31} t {held:6.1%} (width {width:5.2%})   smallest to largest {extremes:6.1%}")


if __name__ == "__main__":
    main()
