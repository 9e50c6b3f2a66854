"""Hold a release against an older one by what both recorded: latency, memory, size, parity and accuracy.

The two were measured in different runs, and a machine is not the same twice. So a latency counts as changed only if the
interval of its change leaves the margin, and only if the machine can be shown to have stayed the same: where both
releases hold the same network, the reference is one program timed twice, and if it moved by more than the margin,
latencies are not compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline.backends.table import NETWORK
from pipeline.benchmark import machine
from pipeline.benchmark.statistics import MIN_LAUNCHES, holm
from pipeline.errors import InputError
from pipeline.interface import in_words
from pipeline.parity.document import Exported
from pipeline.storage.documents import Number, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.benchmark.machine import Machine
    from pipeline.benchmark.statistics import Interval
    from pipeline.report.document import Documents

CONFIDENCE = 0.95
_LARGEST_LOG = 700.0  # of what a double holds
SIZE, PARITY, MEMORY, LATENCY = (
    "size [bytes]",
    "parity [× noise floor, at least 1]",
    "peak memory [bytes]",
    "latency [ms]",
)
Outcome = Literal["regression", "improvement", "same", "undecided"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a release recorded: its report, the bytes of each model by format, and what its reference ran (weights, tools)."""

    report: Documents
    sizes_bytes: Mapping[str, int]
    reference: object


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both releases; `ratio` is candidate ÷ base, above 1 is worse. `interval` is None where it is exact."""

    what: str
    where: str
    base: Number
    candidate: Number
    ratio: Number
    interval: tuple[Number, Number] | None
    outcome: Outcome
    reason: str


class Comparison(Part):
    """Every figure that both releases have, and what only one of them has (`notes`)."""

    margin: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Change]:
        """What got worse for certain."""
        return [each for each in self.changes if each.outcome == "regression"]

    @property
    def undecided(self) -> list[Change]:
        """What cannot be told."""
        return [each for each in self.changes if each.outcome == "undecided"]


@dataclass(frozen=True, slots=True)
class Timed:
    """What a backend took at some sizes: the median over launches with its interval, None where there were too few."""

    median_ms: float
    interval_ms: Interval | None
    launches: int


@dataclass(frozen=True, slots=True)
class TimedSizes:
    """How the run at some sizes went: its reference, and whether it could tell anything."""

    where: str
    reference: str
    can_tell: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is held against another release's.

    `sizes_bytes` is by model, `factors` [× noise floor] and `peaks` [bytes, over launches, in order] by backend, `rows` by sizes in words and
    backend; `reference` is what its reference ran.
    """

    machine: Machine | None
    sizes_bytes: Mapping[str, int]
    factors: Mapping[str, float]
    peaks: Mapping[str, list[int]]
    sizes: tuple[TimedSizes, ...]
    rows: Mapping[tuple[str, str], Timed]
    reference: object


def figures(recorded: Recorded) -> Figures:
    """Return what a release recorded as figures to compare."""
    benchmark = recorded.report.benchmark
    found = benchmark.figures.backends if benchmark.figures else ()
    return Figures(
        machine=benchmark.machine,
        sizes_bytes=recorded.sizes_bytes,
        factors={each.name: each.worst.factor for each in recorded.report.parity.backends if each.worst},
        peaks={each.name: sorted(each.peak_bytes_by_launch) for each in found},
        sizes=tuple(
            TimedSizes(in_words(each.sizes), each.reference, each.can_tell, each.reason) for each in benchmark.sizes
        ),
        rows={
            (in_words(size.sizes), row.name): Timed(row.median_ms, row.median_interval_ms, row.launches)
            for size in benchmark.sizes
            for row in size.rows
            if row.name != size.control and row.median_ms is not None
        },
        reference=recorded.reference,
    )


def compare(base: Recorded, candidate: Recorded, *, margin: float, force: bool) -> Comparison:
    """Compare two releases.

    Raises:
        InputError: they were measured on machines that differ, and `force` is not set; or they share no figure.
    """
    notes = []
    one, other = figures(base), figures(candidate)
    if differences := different_machines(one, other):
        if not force:
            raise InputError(
                f"the two were measured on different machines: {'; '.join(differences)}",
                hint="measure both on one machine (weighbridge benchmark RELEASE), or add --force",
            )
        notes.append(f"measured on different machines: {'; '.join(differences)}")
    (found,) = hold([(one, other)], margin)
    changes = [*found, *_accuracy(base, candidate, margin)]
    if not changes:
        raise InputError("the two releases have no figure in common", hint="compare two releases of the same network")
    for side, mine, others in (("base", one, other), ("candidate", other, one)):
        notes += [
            f"only the {side} has {name}, {mine.sizes_bytes[name]:,} bytes"
            for name in sorted(mine.sizes_bytes.keys() - others.sizes_bytes.keys())
        ]
        only = set(mine.rows) - set(others.rows)
        notes += [f"only the {side} has a latency of {where}" for where in sorted(_label(each) for each in only)]
        if not mine.sizes:
            notes.append(f"the {side} was not timed: weighbridge export without --no-benchmark times it")
    notes += _otherwise(base, candidate)
    return Comparison(margin=margin, changes=tuple(changes), notes=tuple(notes))


def hold(pairs: Sequence[tuple[Figures, Figures]], margin: float) -> list[list[Change]]:
    """Return what changed in each pair of an older and a newer release; all their latencies together are one family of tests."""
    found = [_latencies(*pair, math.log1p(margin)) for pair in pairs]
    adjusted = iter(holm([p_value for each in found for (_, p_value) in each.values()]))
    family = sum(map(len, found))
    return [
        [
            *_sizes(base, candidate, margin),
            *_parity(base, candidate, margin),
            *_memory(base, candidate, margin),
            *_latency((base, candidate), welch, adjusted, margin, family),
        ]
        for (base, candidate), welch in zip(pairs, found, strict=True)
    ]


def different_machines(base: Figures, candidate: Figures) -> list[str]:
    """Return the differences for which what was measured of two must not be compared."""
    return machine.comparable(base.machine, candidate.machine) if base.machine and candidate.machine else []


def _sizes(base: Figures, candidate: Figures, margin: float) -> Iterator[Change]:
    for name in base.sizes_bytes.keys() & candidate.sizes_bytes.keys():
        yield _exact(SIZE, name, base.sizes_bytes[name], candidate.sizes_bytes[name], margin)


def _parity(base: Figures, candidate: Figures, margin: float) -> Iterator[Change]:
    """Factors below 1 are within the noise of float32 itself, where there is nothing to lose."""
    for name in base.factors.keys() & candidate.factors.keys():
        one, other = (max(each.factors[name], 1.0) for each in (base, candidate))
        yield _exact(PARITY, name, one, other, margin)


def _accuracy(base: Recorded, candidate: Recorded, margin: float) -> Iterator[Change]:
    """Yield each claim about the same artifact on the same samples, by what is off: inputs, or of a metric what is lost of the network's."""
    one, other = _artifacts(base), _artifacts(candidate)
    for name in one.keys() & other.keys():
        was, now = one[name].accuracy, other[name].accuracy
        if was is None or now is None or was.sha256 != now.sha256:
            continue
        claims = {(each.criterion, each.output, each.threshold): each for each in was.claims}
        for each in now.claims:
            if (old := claims.get((each.criterion, each.output, each.threshold))) is not None:
                what = f"accuracy [{each.criterion}]"
                where = f"{name}, {each.output}" if each.output else name
                level = each.network or 0.0 if each.criterion == "metric" else 0.0
                yield _better_if_larger(what, where, level + old.value, level + each.value, margin)


def _better_if_larger(what: str, where: str, base: float, candidate: float, margin: float) -> Change:
    found = _exact(what, where, candidate, base, margin)  # below 1 is better elsewhere
    ratio = candidate / base if base else math.inf if candidate else 1.0
    return replace(found, base=base, candidate=candidate, ratio=ratio)


def _otherwise(base: Recorded, candidate: Recorded) -> Iterator[str]:
    """Say which artifacts of one name are in another precision, or judged on other samples: their figures are of two things."""
    one, other = _artifacts(base), _artifacts(candidate)
    for name in sorted(one.keys() & other.keys()):
        was, now = (str(each[name].facts.get("precision") or "the network's precision") for each in (one, other))
        if was != now:
            yield f"{name} is in {was} in the base, and in {now} in the candidate"
        samples = [each[name].accuracy for each in (one, other)]
        if all(samples) and len({each.sha256 for each in samples if each}) > 1:
            yield f"{name} was judged on other samples in the candidate: accuracies are not compared"


def _artifacts(recorded: Recorded) -> dict[str, Exported]:
    return {each.artifact: each for each in recorded.report.parity.exports if isinstance(each, Exported)}


def _memory(base: Figures, candidate: Figures, margin: float) -> Iterator[Change]:
    """Peaks differ a little between launches: a change is proven if the ranges over launches lie apart by the margin.

    A backend that took nothing is not compared.
    """
    for name in base.peaks.keys() & candidate.peaks.keys():
        one, other = base.peaks[name], candidate.peaks[name]
        if not (one and other and one[0] > 0 and other[0] > 0):
            continue
        interval = (other[0] / one[-1], other[-1] / one[0])
        middle = one[len(one) // 2], other[len(other) // 2]
        yield _judged(MEMORY, name, *middle, interval, margin, "over all launches")


def _latencies(base: Figures, candidate: Figures, limit: float) -> dict[tuple[str, str], tuple[Interval, float]]:
    """Return the change of each latency that both have with enough launches: its interval, and the p-value of where that lies."""
    found = {}
    for key in base.rows.keys() & candidate.rows.keys():
        one, other = base.rows[key], candidate.rows[key]
        if one.interval_ms and other.interval_ms and min(one.launches, other.launches) >= MIN_LAUNCHES:
            found[key] = _welch(one, other, limit)
    return found


def _latency(
    pair: tuple[Figures, Figures],
    found: Mapping[tuple[str, str], tuple[Interval, float]],
    adjusted: Iterator[float],
    margin: float,
    family: int,
) -> Iterator[Change]:
    base, candidate = pair
    drift = _drift(base, candidate, margin) if found else None
    for key, (interval, p_value) in found.items():
        p_holm = next(adjusted)
        was, now = base.rows[key], candidate.rows[key]
        how = f"95 %, p {p_holm:.2g}"
        change = _judged(LATENCY, _label(key), was.median_ms, now.median_ms, interval, margin, how)
        if drift:
            change = replace(change, outcome="undecided", reason=drift)
        elif change.outcome != "undecided" and p_holm > 1 - CONFIDENCE:
            reason = f"p {p_value:.2g}, not sure enough for one of {family} latencies"
            change = replace(change, outcome="undecided", reason=reason)
        yield change


def _drift(base: Figures, candidate: Figures, margin: float) -> str | None:
    """Why latencies cannot be compared, if so: the reference, the same program in both, moved; or a run could not tell."""
    for side, each in (("base", base), ("candidate", candidate)):
        for size in each.sizes:
            if not size.can_tell:
                return f"the {side}'s run could not tell: {size.reason}"
    if base.reference != candidate.reference:
        return None
    for size in base.sizes:
        key = (size.where, size.reference)
        was, now = base.rows.get(key), candidate.rows.get(key)
        if size.reference != NETWORK or was is None or now is None:
            continue
        if abs(math.log(now.median_ms) - math.log(was.median_ms)) > math.log1p(margin):
            return (
                f"{_label(key)} is the same program in both and took {now.median_ms / was.median_ms:.3f} times as long: "
                "the machine has changed"
            )
    return None


def _welch(one: Timed, other: Timed, limit: float) -> tuple[Interval, float]:
    """The interval of the ratio of two medians, and the p-value of the region it lies in.

    Source: Welch, The generalization of Student's problem, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit

    errors, degrees = [], []
    for each in (one, other):
        low, high = (math.log(end) for end in each.interval_ms or (each.median_ms, each.median_ms))
        degrees.append(each.launches - 1)
        errors.append((high - low) / 2 / stdtrit(degrees[-1], 0.5 + CONFIDENCE / 2))
    error = math.hypot(*errors)
    change = math.log(other.median_ms) - math.log(one.median_ms)
    if error == 0:
        return (_exp(change), _exp(change)), 0.0
    freedom = error**4 / sum(each**4 / degree for each, degree in zip(errors, degrees, strict=True))
    reach = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(abs(change) - limit) / error))
    return (_exp(change - reach), _exp(change + reach)), p_value


def _exp(value: float) -> float:
    return math.exp(max(-_LARGEST_LOG, min(value, _LARGEST_LOG)))


def _exact(what: str, where: str, base: float, candidate: float, margin: float) -> Change:
    ratio = candidate / base if base else math.inf if candidate else 1.0
    return _judged(what, where, base, candidate, (ratio, ratio), margin, "exact")


def _judged(
    what: str, where: str, base: float, candidate: float, interval: tuple[float, float], margin: float, how: str
) -> Change:
    low, high = interval
    outcome: Outcome = "undecided"
    if low > 1 + margin:
        outcome = "regression"
    elif high < 1 / (1 + margin):
        outcome = "improvement"
    elif high <= 1 + margin and low >= 1 / (1 + margin):
        outcome = "same"
    ratio = candidate / base if base else interval[0]
    return Change(what, where, base, candidate, ratio, None if how == "exact" else interval, outcome, how)


def _label(key: tuple[str, str]) -> str:
    return f"{key[1]}, {key[0]}"
