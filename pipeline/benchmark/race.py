"""Which of several candidates is the best: who leaves a race and when, and what may be said of those that are left.

What is compared is the logarithm of the objective (the time of a call, the memory of a process, the size of a file; less is better).
The difference of two candidates in a launch is the median over its rounds, and what is known of it is Student's t over launches,
as everywhere here (see `pipeline.benchmark.statistics`).

*The race.* A candidate leaves once the lower bound of its difference to the leader lies above 0. The leader is chosen by the same
data, so every pair counts. But the best candidate can only be put out by one of the K - 1 others, whoever leads: the chance
of that is at most the sum over these K - 1 pairs and over all looks. Each bound therefore has level α / (K - 1) (Bonferroni over
candidates) / (m (m + 1)) at look m, which sums to α over however many looks (Bonferroni over looks). Holm's steps would ask
for less than Bonferroni of all K (K - 1) pairs, and still for more than this, which needs only those of one candidate.

One launch in which two threads waited for a core at every call may be a hundred times as slow as the next, and its spread would hide that
all of them are behind. So a tenth of each level goes to a second bound, of the differences cut off at a factor of two, which takes
launches to differ by a tenth of that at least.

*The confirmation.* Whoever leads then is measured again, in new launches whose number is fixed before the first, against those that
are left or, where nobody is, the closest of those that left. Only these launches decide: at level α over the number of rivals.

So a wrong winner is named with a chance of at most 2 α: the best was put out, or a rival that is better lost the new launches.
This holds as far as t does: `benchmarks/race_truth.py` holds it against launches of several shapes.

Sources: Maron and Moore, Hoeffding races, Advances in Neural Information Processing Systems 6 (1994): the race; Hsu, Constrained
simultaneous confidence intervals for multiple comparisons with the best, Annals of Statistics 12 (1984): why the pairs of one
candidate are enough; Even-Dar, Mannor and Mansour, Action elimination and stopping conditions for the multi-armed bandit and
reinforcement learning problems, Journal of Machine Learning Research 7 (2006): levels that shrink with the looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - read when a launch that was kept is validated
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.benchmark.statistics import MIN_LAUNCHES, quantile_ranks

Logs = dict[int, float]
Kept = Literal["yes", "no", "not shown"]
"""Whether a candidate keeps a limit, as far as its calls show."""

ALPHA = 0.005
"""The level of the race, and that of the confirmation: together 1 % for a wrong winner."""
SAME = 0.05
_QUANTILE = 0.99
_PLAIN, _CUT = 0.9, 0.1
_FARTHEST, _LEAST_SPREAD = math.log(2), math.log(2) / 10
_POWER_SHARE = 0.7  # a confirmation is planned for so much of the difference that the race saw


@dataclass(frozen=True, slots=True)
class Heat:
    """What one launch of fresh processes gave.

    `values`: the objective's logarithm by candidate and round; `control`: the same of the second copy of the one that is named
    `leader`. `calls_ns`: the time of every call that was kept; `peak_bytes`: the most memory of each process beyond an idle one's;
    `failures`: why candidates dropped out. `seconds` is what it took altogether.
    """

    values: Mapping[str, Logs]
    leader: str
    control: Logs
    seconds: float
    calls_ns: Mapping[str, Sequence[int]] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """How much more one candidate has than another, as logarithms by launch; these are taken to differ by `least_spread` at least."""

    logs: tuple[float, ...]
    least_spread: float = 0.0

    @property
    def mean(self) -> float:
        """The estimate."""
        return math.fsum(self.logs) / len(self.logs) if self.logs else 0.0

    def reach(self, alpha: float) -> float:
        """How far the truth may lie on one side of the estimate, with a chance of at most `alpha` that it is farther."""
        from scipy.special import stdtrit

        count = len(self.logs)
        if count < MIN_LAUNCHES:
            return math.inf
        spread = max(float(np.std(self.logs, ddof=1)), self.least_spread)
        return float(stdtrit(count - 1, 1 - alpha)) * spread / math.sqrt(count) if spread else 0.0

    def low(self, alpha: float) -> float:
        """The bound below the estimate."""
        return self.mean - self.reach(alpha)

    def surely(self, alpha: float) -> float:
        """The larger of two bounds below, which together have this level: of the differences, and of them cut off."""
        cut = Gap(tuple(max(-_FARTHEST, min(each, _FARTHEST)) for each in self.logs), _LEAST_SPREAD)
        return max(self.low(_PLAIN * alpha), cut.low(_CUT * alpha))

    def high(self, alpha: float) -> float:
        """The bound above the estimate."""
        return self.mean + self.reach(alpha)


def gap(heats: Sequence[Heat], one: str, other: str) -> Gap:
    """Return how much more `one` has than `other`, over the launches in which both took part."""
    found = [
        _median(heat.values[one], heat.values[other]) for heat in heats if one in heat.values and other in heat.values
    ]
    return Gap(tuple(each for each in found if each is not None))


def _median(one: Logs, other: Logs) -> float | None:
    shared = [value - other[index] for index, value in one.items() if index in other]
    return float(np.median(shared)) if shared else None


def level(alpha: float, candidates: int, look: int) -> float:
    """Return the level of one bound at a look (from 1), so that all bounds that can put one candidate out have `alpha` together."""
    return alpha / max(candidates - 1, 1) / (look * (look + 1))


def bar(heats: Sequence[Heat], margin: float) -> float:
    """Return what a difference must exceed: 0, or what two copies of one candidate may differ by where that is beyond the margin."""
    found = [_median(each.control, each.values[each.leader]) for each in heats if each.leader in each.values]
    control = Gap(tuple(each for each in found if each is not None))
    if len(control.logs) < MIN_LAUNCHES or abs(control.mean) <= math.log1p(margin):
        return 0.0
    return abs(control.mean) + control.reach(SAME / 2)


def ranked(heats: Sequence[Heat], names: Sequence[str]) -> list[str]:
    """Return candidates by their estimates, the best first: by how far each is from the middle one of its rounds.

    Medians of differences do not add up, so that the order by differences to one candidate would depend on which that is.
    """
    scores: dict[str, list[float]] = {name: [] for name in names}
    for heat in heats:
        there = {name: heat.values[name] for name in names if name in heat.values}
        indices = {index for logs in there.values() for index in logs}
        middle = {
            index: float(np.median([logs[index] for logs in there.values() if index in logs])) for index in indices
        }
        for name, logs in there.items():
            scores[name].append(float(np.median([value - middle[index] for index, value in logs.items()])))
    means = {name: math.fsum(each) / len(each) if each else math.inf for name, each in scores.items()}
    return sorted(names, key=means.__getitem__)


def beaten(heats: Sequence[Heat], names: Sequence[str], leader: str, alpha: float, margin: float) -> dict[str, Gap]:
    """Return those of whom the bound below lies above the leader's, at level `alpha` each, with how far behind they are."""
    least = bar(heats, margin)
    gaps = {name: gap(heats, name, leader) for name in names if name != leader}
    return {name: each for name, each in gaps.items() if each.surely(alpha) > least}


def are_same(heats: Sequence[Heat], names: Sequence[str], leader: str, margin: float) -> bool:
    """Whether the 95 % intervals of all differences to the leader lie within the margin: nobody needs to tell these apart.

    Nobody is named the winner for it, so it is not corrected for looks. Source of two one-sided tests: Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    edge = math.log1p(margin)
    gaps = [gap(heats, name, leader) for name in names if name != leader]
    return all(-edge < each.low(SAME / 2) and each.high(SAME / 2) < edge for each in gaps)


def keeps(calls_ns: Sequence[int], limit_ms: float, tail: float) -> Kept:
    """Say whether the 99th percentile of a call is within a limit, by order statistics that hold whatever the distribution.

    Each of the two bounds is passed by the true percentile with a chance of at most `tail`, for calls that are independent, which those
    in a burst of foreign load are not. With too few calls it is not shown: at 1 %, 459 are the least.
    """
    ordered = sorted(calls_ns)
    low, high = _bounds_ns(ordered, tail)
    if low is not None and low > limit_ms * 1e6:
        return "no"
    return "yes" if high is not None and high <= limit_ms * 1e6 else "not shown"


def p99_bounds_ms(calls_ns: Sequence[int], tail: float) -> tuple[float | None, float | None]:
    """Return the bounds of the 99th percentile, None on a side for which there are too few calls."""
    low, high = _bounds_ns(sorted(calls_ns), tail)
    return (None if low is None else low / 1e6, None if high is None else high / 1e6)


def _bounds_ns(ordered: Sequence[int], tail: float) -> tuple[int | None, int | None]:
    from scipy.special import bdtr

    if ranks := quantile_ranks(len(ordered), _QUANTILE, tail):
        return ordered[ranks[0] - 1], ordered[ranks[1] - 1]
    # Too few for the bound above; far fewer are enough to show that a limit is not kept.
    count = len(ordered)
    rank = int(np.count_nonzero(bdtr(np.arange(count), count, _QUANTILE) <= tail)) if count else 0
    return (ordered[rank - 1] if rank else None), None


def confirming(gaps: Sequence[Gap], least: int, most: int) -> int:
    """Return how many new launches would confirm a leader over rivals if they go on to differ as they did; at most `most`."""
    for count in range(least, most):
        if all(_would_show(each, count, ALPHA / max(len(gaps), 1)) for each in gaps):
            return count
    return most


def _would_show(seen: Gap, count: int, alpha: float) -> bool:
    from scipy.special import stdtrit

    spread = float(np.std(seen.logs, ddof=1)) if len(seen.logs) > 1 else math.inf
    return float(stdtrit(count - 1, 1 - _PLAIN * alpha)) * spread / math.sqrt(count) < _POWER_SHARE * seen.mean


def least_used(
    tied: Sequence[str], memory: Mapping[str, float], sizes: Mapping[str, int], order: Sequence[str], margin: float
) -> str:
    """Return which of those that cannot be told apart is taken: least memory (alike within the margin), then the smallest file, then `order`."""
    known = [memory[name] for name in tied if name in memory]
    lightest = min(known, default=0.0) * (1 + margin)
    light = [name for name in tied if memory.get(name, math.inf) <= lightest] or list(tied)
    smallest = min(sizes.get(name, 0) for name in light)
    return min((name for name in light if sizes.get(name, 0) == smallest), key=order.index)
