"""Hold a release against an older one by what both recorded: latency, memory, size and parity.

The two were measured in different runs, and a machine is not the same twice. So a latency counts as changed only if the
interval of its change leaves the margin, and only if the machine can be shown to have stayed the same: where both
releases hold the same network, the reference is one program timed twice, and if it moved by more than the margin,
latencies are not compared.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.benchmark import machine
from pipeline.benchmark.statistics import holm
from pipeline.errors import InputError
from pipeline.interface import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Document = Mapping[str, Any]

CONFIDENCE = 0.95
Outcome = Literal["regression", "improvement", "same", "undecided"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both releases; `ratio` is candidate ÷ base, above 1 is worse. `interval` is None where it is exact."""

    what: str
    where: str
    base: float
    candidate: float
    ratio: float
    interval: tuple[float, float] | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
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

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)


def compare(base: Document, candidate: Document, *, margin: float, force: bool) -> Comparison:
    """Compare two releases, each given as its documents `manifest`, `parity` and `benchmark`.

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
        *_memory(base, candidate, margin),
        *_latency(base, candidate, margin, drift),
    ]
    if not changes:
        raise InputError("the two releases have no figure in common", hint="compare two releases of the same network")
    for side, document, other in (("base", base, candidate), ("candidate", candidate, base)):
        only = set(_rows(document)) - set(_rows(other))
        notes += [f"only the {side} has a latency of {where}" for where in sorted(_label(each) for each in only)]
        if not document["benchmark"]["sizes"]:
            notes.append(f"the {side} was not timed: weighbridge export without --no-benchmark times it")
    return Comparison(margin, tuple(changes), tuple(notes))


def _different_machines(base: Document, candidate: Document) -> list[str]:
    described = [each["benchmark"].get("machine") for each in (base, candidate)]
    if not all(described):
        return []
    return machine.comparable(*(machine.Machine.from_json(each) for each in described))


def _sizes(base: Document, candidate: Document, margin: float) -> Iterator[Change]:
    sizes = [
        {
            model.get("name") or model["format"]: sum(
                each["size_bytes"] for each in document["manifest"]["files"] if each["path"] in files
            )
            for model in document["manifest"]["models"]
            for files in [set(model["files"])]
        }
        for document in (base, candidate)
    ]
    for name in sizes[0].keys() & sizes[1].keys():
        yield _exact("size [bytes]", name, sizes[0][name], sizes[1][name], margin)


def _parity(base: Document, candidate: Document, margin: float) -> Iterator[Change]:
    """Factors below 1 are within the noise of float32 itself, where there is nothing to lose."""
    worst = [
        {each["name"]: each["worst"]["factor"] for each in document["parity"]["backends"] if each["worst"]}
        for document in (base, candidate)
    ]
    for name in worst[0].keys() & worst[1].keys():
        one, other = (max(_number(each[name]), 1.0) for each in worst)
        yield _exact("parity [× noise floor, at least 1]", name, one, other, margin)


def _memory(base: Document, candidate: Document, margin: float) -> Iterator[Change]:
    """Peaks differ a little between launches: a change is proven if the ranges over launches lie apart by the margin."""
    peaks = [
        {each["name"]: each["peak_bytes_by_launch"] for each in _figures(document) if each["peak_bytes_by_launch"]}
        for document in (base, candidate)
    ]
    for name in peaks[0].keys() & peaks[1].keys():
        one, other = (sorted(each[name]) for each in peaks)
        interval = (other[0] / one[-1], other[-1] / one[0])
        middle = one[len(one) // 2], other[len(other) // 2]
        yield _judged("peak memory [bytes]", name, *middle, interval, margin, "over all launches")


def _latency(base: Document, candidate: Document, margin: float, drift: str | None) -> Iterator[Change]:
    rows = _rows(base), _rows(candidate)
    found = []
    for key in rows[0].keys() & rows[1].keys():
        one, other = rows[0][key], rows[1][key]
        if one["median_interval_ms"] and other["median_interval_ms"]:
            found.append((key, one["median_ms"], other["median_ms"], _welch(one, other, math.log1p(margin))))
    adjusted = holm([each[3][1] for each in found])
    for (key, was, now, (interval, p_value)), p_holm in zip(found, adjusted, strict=True):
        change = _judged("latency [ms]", _label(key), was, now, interval, margin, f"95 %, p {p_holm:.2g}")
        if drift:
            change = _undecided(change, drift)
        elif change.outcome != "undecided" and p_holm > 1 - CONFIDENCE:
            change = _undecided(change, f"p {p_value:.2g}, not sure enough for one of {len(found)} latencies")
        yield change


def _drift(base: Document, candidate: Document, margin: float) -> str | None:
    """Why latencies cannot be compared, if so: the reference, the same program in both, moved; or a run could not tell."""
    for side, document in (("base", base), ("candidate", candidate)):
        for size in document["benchmark"]["sizes"]:
            if not size["can_tell"]:
                return f"the {side}'s run could not tell: {size['reason']}"
    if any(base["manifest"].get(key) != candidate["manifest"].get(key) for key in ("weights", "tools")):
        return None
    rows = _rows(base), _rows(candidate)
    for size in base["benchmark"]["sizes"]:
        key = (in_words(size["sizes"]), size["reference"])
        if size["reference"] != "eager" or key not in rows[1]:
            continue
        ratio = rows[1][key]["median_ms"] / rows[0][key]["median_ms"]
        if abs(math.log(ratio)) > math.log1p(margin):
            return (
                f"{_label(key)} is the same program in both and took {ratio:.3f} times as long: the machine has changed"
            )
    return None


def _welch(one: Document, other: Document, limit: float) -> tuple[tuple[float, float], float]:
    """The interval of the ratio of two medians, and the p-value of the region it lies in.

    Source: Welch, The generalization of Student's problem, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit

    errors, degrees = [], []
    for row in (one, other):
        low, high = (math.log(each) for each in row["median_interval_ms"])
        degrees.append(row["launches"] - 1)
        errors.append((high - low) / 2 / stdtrit(degrees[-1], 0.5 + CONFIDENCE / 2))
    error = math.hypot(*errors)
    change = math.log(other["median_ms"] / one["median_ms"])
    if error == 0:
        return (math.exp(change), math.exp(change)), 0.0
    freedom = error**4 / sum(each**4 / degree for each, degree in zip(errors, degrees, strict=True))
    reach = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(abs(change) - limit) / error))
    return (math.exp(change - reach), math.exp(change + reach)), p_value


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


def _undecided(change: Change, reason: str) -> Change:
    fields = asdict(change) | {"outcome": "undecided", "reason": reason}
    return Change(**fields)


def _rows(document: Document) -> dict[tuple[str, str], Document]:
    """Return every timed row by size and backend, without the reference's second copy."""
    return {
        (in_words(size["sizes"]), row["name"]): row
        for size in document["benchmark"]["sizes"]
        for row in size["rows"]
        if row["name"] != size["control"] and row["median_ms"] is not None
    }


def _figures(document: Document) -> list[Document]:
    figures: list[Document] = document["benchmark"].get("figures", {}).get("backends", [])
    return figures


def _label(key: tuple[str, str]) -> str:
    return f"{key[1]}, {key[0]}"


def _number(value: float | str) -> float:
    return float(value.replace("∞", "inf")) if isinstance(value, str) else value
