"""How often the accuracy gate lets a drop through, and whether the number of samples that it advises decides.

The bars: with a true drop at the margin, or a true share at the limit, it passes in at most 5 % of runs, whatever the distribution; with no
drop and the advised number of samples it passes in at least 90 %. The statistics are those that judge real runs (pipeline/parity/accuracy.py).
Exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from pipeline.parity.accuracy import judge_share, mean_verdict, more_for_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.parity.accuracy import Floats

    Draw = Callable[[np.random.Generator, int, float], Floats]

MARGIN, WIDTH, CONFIDENCE = 0.01, 1.0, 0.95
MOST_FALSE, LEAST_POWER = 0.05, 0.9
SIZES = (100, 300, 1000, 3000)
FIRST = 200


def binary(discordant: float) -> Draw:
    """Right or wrong: so many of the pairs differ, as often up as down but for the drop."""

    def draw(rng: np.random.Generator, count: int, drop: float) -> Floats:
        both = max(discordant, drop)
        odds = [(both + drop) / 2, 1 - both, (both - drop) / 2]
        return rng.choice(np.array([-1.0, 0.0, 1.0]), count, p=odds)

    return draw


def continuous(spread: float) -> Draw:
    """A little up or down, within ± spread."""
    return lambda rng, count, drop: spread * (2 * rng.beta(2, 2, count) - 1) - drop


def skewed(rare: float, far: float) -> Draw:
    """Most a little one way, a few far the other."""

    def draw(rng: np.random.Generator, count: int, drop: float) -> Floats:
        others = -far * rare / (1 - rare)
        return np.where(rng.random(count) < rare, far, others) - drop

    return draw


MEANS: dict[str, Draw] = {
    "binary, what differs is the drop": binary(0.0),
    "binary, 2 % differ": binary(0.02),
    "binary, 10 % differ": binary(0.10),
    "continuous within 0.05": continuous(0.05),
    "continuous within 0.3": continuous(0.3),
    "skewed: 2 % lose 0.5": skewed(0.02, -0.5),
    "skewed: 2 % gain 0.5": skewed(0.02, 0.5),
    "skewed: 1 % lose 0.9": skewed(0.01, -0.9),
}
SHARES = {
    "agreement, limit 0.99": (0.99, (1.0, 0.999, 0.998)),
    "agreement, limit 0.95": (0.95, (1.0, 0.99, 0.98)),
    "SQNR, 0.9 of inputs": (0.9, (1.0, 0.98, 0.95)),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares of runs: passed at first, passed in the end, in the end of those that were undecided; the median advice."""

    first: float
    end: float
    advised: float
    more: float


def _mean_run(draw: Draw, rng: np.random.Generator, drop: float) -> tuple[str, str, int]:
    """Return the first verdict, the last one, and how many more samples were advised."""
    seen = draw(rng, FIRST, drop)
    first = mean_verdict(seen, MARGIN, WIDTH, CONFIDENCE)
    more = more_for_mean(seen, MARGIN, WIDTH, CONFIDENCE)[1] if first == "undecided" else None
    if more is None:
        return first, first, 0
    both = np.concatenate([seen, draw(rng, more, drop)])
    return first, mean_verdict(both, MARGIN, WIDTH, CONFIDENCE), more


def _share_run(limit: float, rng: np.random.Generator, share: float) -> tuple[str, str, int]:
    hits = int(rng.binomial(FIRST, share))
    found = judge_share(hits, FIRST, limit, CONFIDENCE)
    if found.verdict != "undecided" or found.more is None:
        return found.verdict, found.verdict, 0
    all_hits = hits + int(rng.binomial(found.more, share))
    return found.verdict, judge_share(all_hits, FIRST + found.more, limit, CONFIDENCE).verdict, found.more


def looked_twice(one: Callable[[np.random.Generator], tuple[str, str, int]], runs: int, seed: int) -> Figures:
    """Judge the first samples; where that is undecided, add the advised number and judge again."""
    rng = np.random.default_rng(seed)
    found = [one(rng) for _ in range(runs)]
    undecided = [each for each in found if each[0] == "undecided"]
    return Figures(
        float(np.mean([first == "pass" for first, _, _ in found])),
        float(np.mean([last == "pass" for _, last, _ in found])),
        float(np.mean([last == "pass" for _, last, _ in undecided])) if undecided else float("nan"),
        float(np.median([more for _, _, more in undecided])) if undecided else 0.0,
    )


def mean_at_margin(draw: Draw, count: int, runs: int, seed: int) -> float:
    """Return in what share of runs of `count` samples a drop at the margin passes."""
    rng = np.random.default_rng(seed)
    return float(
        np.mean([mean_verdict(draw(rng, count, MARGIN), MARGIN, WIDTH, CONFIDENCE) == "pass" for _ in range(runs)])
    )


def share_at_limit(limit: float, count: int) -> float:
    """Return how likely a true share at the limit passes with `count` samples, exactly."""
    verdicts = [judge_share(hits, count, limit, CONFIDENCE).verdict for hits in range(count + 1)]
    passing = [hits for hits, each in enumerate(verdicts) if each == "pass"]
    return float(binom.pmf(passing, count, limit).sum())


def main() -> int:
    """Print every figure, and whether a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runs, seed = options.runs, options.seed
    false, power = [], []
    print(f"{runs} runs each, confidence {CONFIDENCE:.0%}")
    print(
        f"\ntrue drop at the margin of {MARGIN:g}, or true share at the limit: passed with {SIZES} samples; looked at twice"
    )
    for name, draw in MEANS.items():
        rates = [mean_at_margin(draw, count, runs, seed) for count in SIZES]
        twice = looked_twice(lambda rng, draw=draw: _mean_run(draw, rng, MARGIN), runs, seed).end
        false += [*rates, twice]
        print(f"{name:<34} {' '.join(f'{each:6.2%}' for each in rates)}   twice {twice:6.2%}", flush=True)
    for name, (limit, _) in SHARES.items():
        rates = [share_at_limit(limit, count) for count in SIZES]
        twice = looked_twice(lambda rng, limit=limit: _share_run(limit, rng, limit), runs, seed).end
        false += rates
        print(f"{name:<34} {' '.join(f'{each:6.2%}' for each in rates)}   twice {twice:6.2%}", flush=True)
    print(f"\nno drop: passed at once with {FIRST}; with the advised number where that was undecided; median advice")
    for name, draw in MEANS.items():
        found = looked_twice(lambda rng, draw=draw: _mean_run(draw, rng, 0.0), runs, seed)
        power.append(found.advised)
        print(f"{name:<34} {found.first:6.2%}   {found.advised:6.2%}   {found.more:,.0f} more", flush=True)
    for name, (limit, shares) in SHARES.items():
        for share in shares:
            found = looked_twice(lambda rng, limit=limit, share=share: _share_run(limit, rng, share), runs, seed)
            power.append(found.advised)
            about = f"{name}, true {share:g}"
            print(f"{about:<34} {found.first:6.2%}   {found.advised:6.2%}   {found.more:,.0f} more", flush=True)
    missed = max(false) > MOST_FALSE or float(np.nanmin(power)) < LEAST_POWER
    print(
        f"\nmost that passed at the margin: {max(false):.2%} (bar {MOST_FALSE:.0%}); least power: {np.nanmin(power):.2%} (bar {LEAST_POWER:.0%})"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
