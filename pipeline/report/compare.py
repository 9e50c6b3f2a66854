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
    from collections.abc import Iterator, Mapping

    from pipeline.benchmark.statistics import Interval, Row
    from pipeline.report.document import Documents

CONFIDENCE = 0.95
_LARGEST_LOG = 700.0  # of what a double holds
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


def compare(base: Recorded, candidate: Recorded, *, margin: float, force: bool) -> Comparison:
    """Compare two releases.

    Raises:
        InputError: they were measured on machines that differ, and `force` is not set; or they share no figure.
    """
    notes = []
    if differences := _different_machines(base, candidate):
        if not force:
            raise InputError(
                f"the two were measured on different machines: {'; '.join(differences)}",
                hint="measure both on one machine (weighbridge benchmark RELEASE), or add --force",
            )
        notes.append(f"measured on different machines: {'; '.join(differences)}")
    drift = _drift(base, candidate, margin)
    changes = [
        *_sizes(base, candidate, margin),
        *_parity(base, candidate, margin),
        *_accuracy(base, candidate, margin),
        *_memory(base, candidate, margin),
        *_latency(base, candidate, margin, drift),
    ]
    if not changes:
        raise InputError("the two releases have no figure in common", hint="compare two releases of the same network")
    for side, recorded, other in (("base", base, candidate), ("candidate", candidate, base)):
        notes += [
            f"only the {side} has {name}, {recorded.sizes_bytes[name]:,} bytes"
            for name in sorted(recorded.sizes_bytes.keys() - other.sizes_bytes.keys())
        ]
        only = set(_rows(recorded)) - set(_rows(other))
        notes += [f"only the {side} has a latency of {where}" for where in sorted(_label(each) for each in only)]
        if not recorded.report.benchmark.sizes:
            notes.append(f"the {side} was not timed: weighbridge export without --no-benchmark times it")
    notes += _otherwise(base, candidate)
    return Comparison(margin=margin, changes=tuple(changes), notes=tuple(notes))


def _different_machines(base: Recorded, candidate: Recorded) -> list[str]:
    one, other = base.report.benchmark.machine, candidate.report.benchmark.machine
    return machine.comparable(one, other) if one and other else []


def _sizes(base: Recorded, candidate: Recorded, margin: float) -> Iterator[Change]:
    for name in base.sizes_bytes.keys() & candidate.sizes_bytes.keys():
        yield _exact("size [bytes]", name, base.sizes_bytes[name], candidate.sizes_bytes[name], margin)


def _parity(base: Recorded, candidate: Recorded, margin: float) -> Iterator[Change]:
    """Factors below 1 are within the noise of float32 itself, where there is nothing to lose."""
    one, other = (
        {each.name: max(each.worst.factor, 1.0) for each in recorded.report.parity.backends if each.worst}
        for recorded in (base, candidate)
    )
    for name in one.keys() & other.keys():
        yield _exact("parity [× noise floor, at least 1]", name, one[name], other[name], margin)


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


def _memory(base: Recorded, candidate: Recorded, margin: float) -> Iterator[Change]:
    """Peaks differ a little between launches: a change is proven if the ranges over launches lie apart by the margin."""
    peaks = _peaks(base), _peaks(candidate)
    for name in peaks[0].keys() & peaks[1].keys():
        one, other = (each[name] for each in peaks)
        interval = (other[0] / one[-1], other[-1] / one[0])
        middle = one[len(one) // 2], other[len(other) // 2]
        yield _judged("peak memory [bytes]", name, *middle, interval, margin, "over all launches")


def _peaks(recorded: Recorded) -> dict[str, list[int]]:
    """Return the peaks of each backend over its launches, in order; none of a backend that took nothing."""
    figures = recorded.report.benchmark.figures
    found = {each.name: sorted(each.peak_bytes_by_launch) for each in (figures.backends if figures else ())}
    return {name: peaks for name, peaks in found.items() if peaks and peaks[0] > 0}


def _latency(base: Recorded, candidate: Recorded, margin: float, drift: str | None) -> Iterator[Change]:
    rows = _rows(base), _rows(candidate)
    found = []
    for key in rows[0].keys() & rows[1].keys():
        one, other = (_Latency.of(each[key]) for each in rows)
        if one and other:
            found.append((key, one, other, _welch(one, other, math.log1p(margin))))
    adjusted = holm([each[3][1] for each in found])
    for (key, was, now, (interval, p_value)), p_holm in zip(found, adjusted, strict=True):
        how = f"95 %, p {p_holm:.2g}"
        change = _judged("latency [ms]", _label(key), was.median_ms, now.median_ms, interval, margin, how)
        if drift:
            change = replace(change, outcome="undecided", reason=drift)
        elif change.outcome != "undecided" and p_holm > 1 - CONFIDENCE:
            reason = f"p {p_value:.2g}, not sure enough for one of {len(found)} latencies"
            change = replace(change, outcome="undecided", reason=reason)
        yield change


def _drift(base: Recorded, candidate: Recorded, margin: float) -> str | None:
    """Why latencies cannot be compared, if so: the reference, the same program in both, moved; or a run could not tell."""
    for side, recorded in (("base", base), ("candidate", candidate)):
        for size in recorded.report.benchmark.sizes:
            if not size.can_tell:
                return f"the {side}'s run could not tell: {size.reason}"
    if base.reference != candidate.reference:
        return None
    rows = _rows(base), _rows(candidate)
    for size in base.report.benchmark.sizes:
        key = (in_words(size.sizes), size.reference)
        was, now = (each[key].median_ms if key in each else None for each in rows)
        if size.reference != NETWORK or was is None or now is None:
            continue
        if abs(math.log(now) - math.log(was)) > math.log1p(margin):
            return (
                f"{_label(key)} is the same program in both and took {now / was:.3f} times as long: "
                "the machine has changed"
            )
    return None


@dataclass(frozen=True, slots=True)
class _Latency:
    """A median over launches, with its interval."""

    median_ms: float
    interval_ms: Interval
    launches: int

    @staticmethod
    def of(row: Row) -> _Latency | None:
        if row.median_ms is None or row.median_interval_ms is None or row.launches < MIN_LAUNCHES:
            return None
        return _Latency(row.median_ms, row.median_interval_ms, row.launches)


def _welch(one: _Latency, other: _Latency, limit: float) -> tuple[Interval, float]:
    """The interval of the ratio of two medians, and the p-value of the region it lies in.

    Source: Welch, The generalization of Student's problem, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit

    errors, degrees = [], []
    for each in (one, other):
        low, high = (math.log(end) for end in each.interval_ms)
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


def _rows(recorded: Recorded) -> dict[tuple[str, str], Row]:
    """Return every timed row by size and backend, without the reference's second copy."""
    return {
        (in_words(size.sizes), row.name): row
        for size in recorded.report.benchmark.sizes
        for row in size.rows
        if row.name != size.control and row.median_ms is not None
    }


def _label(key: tuple[str, str]) -> str:
    return f"{key[1]}, {key[0]}"
