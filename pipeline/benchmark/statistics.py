"""From raw measurements to ratios, intervals and verdicts.

The figure of a block is the *median* time of its calls. The mean would carry every pre-emption: one of 10 ms in a block
of 60 ms moves the mean by 17 % and the median by nothing. What is steady within a launch survives both medians (calls
in a block, rounds in a launch), and what differs between launches is left to the interval.

The interval is Student's t over the launches' median log-ratios, not their order statistics. Those need no
distribution, but 6 launches cannot reach a p-value below 2/2⁶ = 0.031, so that Holm's correction for two backends (which
asks for 0.025) could never find anything, and they need 6 launches, where a small budget has room for 3. Launch medians have
many causes, and the difference of two programs' is close to symmetric, which is all that t needs. Measured by
`benchmarks/interval_coverage.py` under bursts of load, 95 % intervals hold the true ratio in 95.1 % of runs if launches
have normal effects, in 95 to 98 % if those have two levels, a rare slow one, one side or heavy tails, and in 93 % in the
worst case tried (only one program varies, and to one side only). This is so with 6 launches and with 3.

Holm's correction bounds the chance of any wrong verdict among several backends. The p-value of a verdict is the smallest
α at which the 1 - α interval lies within one of the three regions faster, same and slower. As these exclude one another, a
verdict is wrong only if that interval misses the true ratio.

Where the reference's two copies differ by more than the margin, something favours one of two equal programs by as much as the
far end of their interval says. Nothing is the same then, and faster or slower is only what lies beyond that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, SupportsFloat

import numpy as np

from pipeline.errors import InputError
from pipeline.storage.documents import Count, Many, Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.benchmark.measurements import Block, Measurements

    Floats = NDArray[np.float64]

MIN_LAUNCHES = 3
BOUND_TAIL = 0.01

Verdict = Literal["faster", "slower", "same", "undecided", "reference"]
Interval = tuple[Positive, Positive]


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of the time of a call, and bounds on either side that the true one passes with at most 1 %."""

    value_ms: Positive
    low_ms: Positive
    high_ms: Positive


@dataclass(frozen=True, slots=True)
class Row:
    """One backend: its time over the reference's (`ratio`, below 1 is faster), the verdict, and its own latency.

    `interval` is that of this backend alone; `p_value` is the verdict's, corrected for the number of backends.
    A quantile of None has too few calls; quantiles pool the calls of all launches, and their bounds take calls for
    independent, which bursts of load are not. `decides_in_s`: the budget with which an undecided one would have as many launches
    as decide it, if they go on to differ as these did; None where that is not known, or more than a run makes.
    """

    name: str
    ratio: Positive | None
    interval: Interval | None
    verdict: Verdict
    reason: str
    p_value: float | None
    median_ms: Positive | None
    median_interval_ms: Interval | None
    p50: Quantile | None
    p90: Quantile | None
    p95: Quantile | None
    p99: Quantile | None
    calls: Count
    rounds: Count
    launches: Count
    settled: bool
    decides_in_s: Positive | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """The verdicts of a run; `can_tell` is False, with the reason, where the reference differs from itself."""

    reference: str
    control: str
    margin: float
    confidence: float
    can_tell: bool
    reason: str
    rows: Many[Row]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A log-ratio with its interval, the region it lies in, and how surely (see the module's docstring)."""

    estimate: float
    interval: Interval
    region: Verdict
    p_value: float
    logs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A verdict with its reason, and the budget that would decide it."""

    verdict: Verdict
    reason: str
    decides_in_s: float | None = None


def analyse(measured: Measurements, *, margin: float, confidence: float = 0.95) -> Analysis:
    """Compare every arm with the reference.

    A backend is *faster* if its interval lies below 1/(1 + margin), *slower* if above 1 + margin, the *same* if between;
    it is *undecided* otherwise, or if that does not survive Holm's correction. Where the reference's two copies differ by
    more than the margin, what they may differ by at most takes its place, and nothing is the *same*.

    Raises:
        InputError: the margin is not above 0, or the confidence not between 0 and 1.

    """
    if not margin > 0:
        raise InputError(f"the benchmark's margin is {margin}", hint="give a share above 0, such as 0.03")
    if not 0 < confidence < 1:
        raise InputError(f"the benchmark's confidence is {confidence}", hint="give a share such as 0.95")
    control = _compare(measured, measured.control, margin, confidence)
    fault = _fault(measured, control, margin)
    used = _widest(control) if fault and control else margin
    found = {
        name: control if name == measured.control else _compare(measured, name, used, confidence)
        for name in measured.arms
        if name != measured.reference
    }
    rivals = {name: each for name, each in found.items() if each and name != measured.control}
    p_values = dict(zip(rivals, holm([each.p_value for each in rivals.values()]), strict=True))
    if control:
        p_values[measured.control] = control.p_value

    reference = _Judged("reference", "what the others are compared with")
    rows = [_row(measured, measured.reference, None, None, reference, confidence)]
    for name, each in found.items():
        p_value = p_values.get(name)
        if fault and (control is None or name == measured.control):
            judged = _Judged("undecided", fault)
        elif name in measured.failures:
            judged = _Judged("undecided", f"dropped out: {measured.failures[name]}")
        elif each is None or p_value is None:
            judged = _Judged("undecided", _too_few(len(_launch_logs(measured, name))))
        else:
            judged = _judge(each, p_value, used, confidence, len(rivals))
            if fault:
                judged = _judged_unsteady(judged, measured.reference, fault)
            elif judged.verdict == "undecided":
                judged = _foreseen(judged, measured, each, margin, (1 - confidence) / max(len(rivals), 1))
        rows.append(_row(measured, name, each, p_value, judged, confidence))
    reason = fault or f"two copies of {measured.reference} agree within the margin of {margin:.3g}"
    return Analysis(measured.reference, measured.control, margin, confidence, fault is None, reason, tuple(rows))


def t_interval(values: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Bounds of Student's t interval for the mean along the last axis, which holds at least 2 launches.

    Source: Student, The probable error of a mean, Biometrika 6 (1908).
    """
    from scipy.special import stdtrit

    count = values.shape[-1]
    mean, error = values.mean(axis=-1), values.std(axis=-1, ddof=1) / math.sqrt(count)
    reach = stdtrit(count - 1, 0.5 + confidence / 2) * error
    return mean - reach, mean + reach


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that rejecting those up to α has a chance of at most α of any false rejection.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def quantile_ranks(count: int, quantile: float, tail: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the order statistics of `count` samples that bound a quantile, each missed with at most `tail`.

    The number of samples below the quantile is binomial, whatever their distribution. None if there are too few.
    Source: David and Nagaraja, Order Statistics (2003), section 7.1.
    """
    from scipy.special import bdtr, bdtrc

    if count < 1:
        return None
    below = np.arange(count)
    low = int(np.count_nonzero(bdtr(below, count, quantile) <= tail))
    high = count - int(np.count_nonzero(bdtrc(below, count, quantile) <= tail)) + 1
    return (low, high) if low >= 1 and high <= count else None


def quantile(durations_ns: Floats, share: float) -> Quantile | None:
    """Return the quantile of sorted durations [ns] that `share` of calls stay below, or None if they are too few."""
    ranks = quantile_ranks(len(durations_ns), share, BOUND_TAIL)
    if ranks is None:
        return None
    value = durations_ns[max(math.ceil(share * len(durations_ns)), 1) - 1]
    return Quantile(*(float(each) / 1e6 for each in (value, durations_ns[ranks[0] - 1], durations_ns[ranks[1] - 1])))


def _compare(measured: Measurements, name: str, margin: float, confidence: float) -> _Comparison | None:
    logs = np.array(_launch_logs(measured, name))
    if len(logs) < MIN_LAUNCHES:
        return None
    low, high = t_interval(logs, confidence)
    estimate, limit = float(logs.mean()), math.log1p(margin)
    region: Verdict = "same" if abs(estimate) <= limit else "faster" if estimate < 0 else "slower"
    return _Comparison(estimate, (float(low), float(high)), region, _p_value(logs, limit), tuple(map(float, logs)))


def _p_value(logs: Floats, limit: float) -> float:
    """The smallest α at which the 1 - α interval stays on the estimate's side of the nearest edge of the margin."""
    from scipy.special import stdtr

    distance = abs(abs(float(logs.mean())) - limit)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(2 * stdtr(len(logs) - 1, -distance / error))


def _launch_logs(measured: Measurements, name: str) -> list[float]:
    """Per launch, the median over rounds of the log-ratio to the reference."""
    logs = []
    for launch in measured.launches:
        if name in launch.arms and measured.reference in launch.arms:
            base = {block.round: _call_ns(block) for block in launch.arms[measured.reference].blocks}
            ratios = [_call_ns(block) / base[block.round] for block in launch.arms[name].blocks if block.round in base]
            if ratios:
                logs.append(float(np.median(np.log(ratios))))
    return logs


def _call_ns(block: Block) -> float:
    return float(np.median(block.durations_ns))


def _fault(measured: Measurements, control: _Comparison | None, margin: float) -> str | None:
    """Why this run can tell nothing, if so: the reference's two copies differ, or were seen too rarely."""
    if control is None:
        return _too_few(len(_launch_logs(measured, measured.control)))
    if control.region == "same":
        return None
    return (
        f"two copies of {measured.reference} differ by a factor of {math.exp(control.estimate):.3f}, "
        f"more than the margin of {margin:.3g}: this machine is too unsteady now"
    )


def _widest(control: _Comparison) -> float:
    """Return by which share the reference's two copies differ at the far end of their interval."""
    return math.expm1(max(abs(edge) for edge in control.interval))


def _judged_unsteady(judged: _Judged, reference: str, fault: str) -> _Judged:
    """Return a verdict in a run whose reference differs from itself: only what is farther off than that stands."""
    if judged.verdict in {"faster", "slower"}:
        reason = f"{judged.reason}, which is as far as two copies of {reference} may be apart in this unsteady run"
        return _Judged(judged.verdict, reason)
    return _Judged("undecided", fault)


def _too_few(launches: int) -> str:
    return f"{launches} launches; an interval needs at least {MIN_LAUNCHES}: raise benchmark.seconds"


def _judge(comparison: _Comparison, p_value: float, margin: float, confidence: float, rivals: int) -> _Judged:
    low, high = (math.exp(each) for each in comparison.interval)
    edges = f"±{100 * margin:.3g} %"
    place = f"the interval {low:.3f} to {high:.3f}"
    if p_value <= 1 - confidence:
        where = {"faster": "lies below", "slower": "lies above", "same": "lies within"}[comparison.region]
        return _Judged(comparison.region, f"{place} {where} {edges}")
    if comparison.p_value <= 1 - confidence:
        return _Judged(
            "undecided", f"{place} is clear of the edges of {edges}, but not surely enough for one of {rivals} backends"
        )
    return _Judged("undecided", f"{place} reaches across an edge of {edges}")


def _foreseen(judged: _Judged, measured: Measurements, found: _Comparison, margin: float, alpha: float) -> _Judged:
    """Return a verdict that is not decided with the budget that would decide it, or that this is more than a run makes."""
    from scipy.special import stdtrit

    plan, spread = measured.plan, float(np.std(found.logs, ddof=1))
    distance = abs(abs(found.estimate) - math.log1p(margin))
    more = range(len(found.logs) + 1, plan.launches + 1)
    wanted = next((n for n in more if stdtrit(n - 1, 1 - alpha / 2) * spread / math.sqrt(n) < distance), None)
    if wanted is None:
        return replace(
            judged, reason=f"{judged.reason}; {plan.launches} launches that differ as these do would not decide"
        )
    fixed_s = _mean([each.fixed_s for each in measured.launches])
    round_s = _mean([each.measure_s / max(len(each.round_orders), 1) for each in measured.launches])
    seconds = wanted * (fixed_s + plan.worth_s(fixed_s, round_s)) + plan.reserve_s
    if not seconds > measured.elapsed_s:  # what was spent made fewer: it is not known what would make more
        return judged
    said = (
        f"about {_rounded(seconds - measured.elapsed_s):g} s more would decide, if launches go on to differ as these do"
    )
    return _Judged("undecided", f"{judged.reason}; {said}", _rounded(seconds))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounded(seconds: float) -> float:
    """Return a time that is only roughly known, up to two digits."""
    step = 10 ** max(math.floor(math.log10(seconds)) - 1, 0)
    return float(math.ceil(seconds / step) * step)


def _row(
    measured: Measurements,
    name: str,
    comparison: _Comparison | None,
    p_value: float | None,
    judged: _Judged,
    confidence: float,
) -> Row:
    taken = [launch.arms[name] for launch in measured.launches if name in launch.arms and launch.arms[name].blocks]
    blocks = [block for arm in taken for block in arm.blocks]
    calls = np.sort(np.array([duration for block in blocks for duration in block.durations_ns], dtype=np.float64))
    logs = np.log([np.median([_call_ns(block) for block in arm.blocks]) / 1e6 for arm in taken])
    ratio = 1.0 if name == measured.reference else math.exp(comparison.estimate) if comparison else None
    return Row(
        name=name,
        ratio=ratio,
        interval=_exp(comparison.interval) if comparison else None,
        verdict=judged.verdict,
        reason=judged.reason,
        p_value=p_value,
        median_ms=math.exp(logs.mean()) if len(logs) else None,
        median_interval_ms=_exp(t_interval(logs, confidence)) if len(logs) >= MIN_LAUNCHES else None,
        p50=quantile(calls, 0.5),
        p90=quantile(calls, 0.9),
        p95=quantile(calls, 0.95),
        p99=quantile(calls, 0.99),
        calls=sum(block.calls for block in blocks),
        rounds=len(blocks),
        launches=len(taken),
        settled=bool(taken) and all(arm.warm_up is not None and arm.warm_up.settled for arm in taken),
        decides_in_s=judged.decides_in_s,
    )


def _exp(interval: tuple[SupportsFloat, SupportsFloat]) -> Interval:
    return math.exp(interval[0]), math.exp(interval[1])
