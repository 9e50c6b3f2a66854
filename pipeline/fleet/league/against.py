"""A table of releases held against an older one: what got worse, and what cannot be told.

Figures are judged as `weighbridge compare` judges those of two releases (pipeline/report/compare.py), all latencies of the table as one family
of tests. A verdict that was a pass and is none is worse for certain. A factor counts once it leaves its budget: within it there is
nothing to lose. What was timed on another kind of node is not compared in time and memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.fleet.league.table import collect
from pipeline.interface import in_words
from pipeline.report import compare
from pipeline.report.compare import Figures, Timed, TimedSizes
from pipeline.report.league import Against, Entry, League, Shift

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.report.compare import Change, Outcome
    from pipeline.report.league import Outcome as ShiftOutcome
    from pipeline.report.league import Row

_WORDS: Mapping[Outcome, ShiftOutcome | None] = {
    "regression": "worse",
    "undecided": "undecided",
    "improvement": "better",
    "same": None,
}
_GOOD = "pass"
_NOT_TOLD = {"unavailable", "not there", "not run"}
"""Verdicts that say nothing of what they are about."""


def read(old: Path) -> League:
    """Return an older table: what `weighbridge league --json` printed, or what folders of releases hold now.

    Raises:
        InputError: it is neither.
    """
    if old.is_dir():
        return collect([old])
    try:
        return League.read(old)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{old} is no table of releases: {error!s:.200}",
            hint="give what `weighbridge league --json` printed, or a folder of releases",
        ) from None


@dataclass(frozen=True, slots=True)
class _Stand:
    """Where a name stands in a table: its newest release, and its last run if that ended without one."""

    release: Entry | None = None
    failed: Entry | None = None


def against(new: League, old: League, *, margin: float) -> Against:
    """Hold the newest release of each name against the older table's; names that only one of them has are told."""
    notes: list[str] = []
    olds, news = _by_name(old, "the older table", notes), _by_name(new, "this table", notes)
    shifts: list[Shift] = []
    pairs = []
    for name in sorted(olds.keys() | news.keys()):
        if name not in olds:
            notes.append(f"{name} is new")
            continue
        was, now = olds[name], news.get(name)
        if now is None:
            shifts.append(
                Shift(
                    name=name, what="verdict", where="", outcome="undecided", required=True, reason="not in this table"
                )
            )
            continue
        shifts += _of_a_run(name, was, now)
        if was.release and now.release:
            shifts += _verdicts(was.release, now.release)
            pairs.append((was.release, now.release))
    figures = [_comparable(_figures(one, old), _figures(other, new), one.name, notes) for one, other in pairs]
    same = 0
    for (_, entry), changes in zip(pairs, compare.hold(figures, margin), strict=True):
        for change in changes:
            outcome = _judged(change, entry, notes)
            same += outcome is None
            shifts += [_shift(change, outcome, entry)] if outcome else []
    return Against(margin=margin, shifts=tuple(shifts), same=same, notes=tuple(notes))


def _by_name(league: League, which: str, notes: list[str]) -> dict[str, _Stand]:
    found: dict[str, _Stand] = {}
    for each in league.entries:
        stand = found.get(each.name, _Stand())
        if each.state == "failed":
            found[each.name] = replace(stand, failed=stand.failed or each)
        elif each.latest and stand.release is None:
            found[each.name] = replace(stand, release=each)
        elif each.latest:
            notes.append(f"{which} has {each.name} more than once; {stand.release and stand.release.version} was taken")
    return found


def _of_a_run(name: str, was: _Stand, now: _Stand) -> Iterator[Shift]:
    """Yield whether a name lost its release, or got one."""

    def shift(outcome: ShiftOutcome, reason: str) -> Shift:
        return Shift(name=name, what="verdict", where="", outcome=outcome, required=True, reason=reason)

    if now.failed and not was.failed:
        yield shift("worse", f"its last run ended without a release: {now.failed.problem}")
    elif was.failed and not now.failed:
        yield shift("better", "it has a release")
    if now.release and now.release.state == "damaged":
        yield shift("undecided", now.release.problem)


def _verdicts(was: Entry, now: Entry) -> Iterator[Shift]:
    """Yield the verdicts that are no longer a pass, and those that are now."""
    before, after = ({_key(row): row for row in each.rows} for each in (was, now))
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        outcome, reason = _verdict(one, other)
        if outcome:
            required = any(each is not None and each.required for each in (one, other))
            yield Shift(name=now.name, what="verdict", where=key, outcome=outcome, required=required, reason=reason)


def _key(row: Row) -> str:
    return row.backend or row.artifact


def _verdict(was: Row | None, now: Row | None) -> tuple[ShiftOutcome | None, str]:
    one, other = (each.verdict if each else "not there" for each in (was, now))
    said = f"{one} → {other}" + (f": {now.reason}" if now and now.reason else "")
    if _GOOD not in {one, other} or one == other:
        return None, ""
    if other == _GOOD:
        return "better", said
    return ("undecided" if other in _NOT_TOLD else "worse"), said


def _figures(entry: Entry, league: League) -> Figures:
    return Figures(
        machine=None if entry.node is None or entry.node >= len(league.machines) else league.machines[entry.node],
        sizes_bytes={row.artifact: row.size_bytes for row in entry.rows if row.artifact and row.size_bytes is not None},
        factors={
            row.backend: row.factor for row in entry.rows if row.factor is not None and not math.isnan(row.factor)
        },
        peaks={row.backend: sorted(row.peak_bytes) for row in entry.rows if row.peak_bytes},
        sizes=tuple(
            TimedSizes(in_words(each.sizes), each.reference, each.can_tell, each.reason) for each in entry.sizes
        ),
        rows={
            (in_words(each.sizes), row.backend): Timed(each.median_ms, each.median_interval_ms, each.launches)
            for row in entry.rows
            for each in row.timings
            if each.median_ms is not None
        },
        reference=(entry.weights, entry.tools),
    )


def _comparable(one: Figures, other: Figures, name: str, notes: list[str]) -> tuple[Figures, Figures]:
    """Return two releases' figures, without what was measured where that was on different kinds of nodes."""
    differences = compare.different_machines(one, other)
    if not differences:
        return one, other
    notes.append(
        f"{name} was timed on different kinds of nodes, and is compared without time and memory: {'; '.join(differences)}"
    )
    return replace(one, rows={}, peaks={}), replace(other, rows={}, peaks={})


def _judged(change: Change, now: Entry, notes: list[str]) -> ShiftOutcome | None:
    outcome = _WORDS[change.outcome]
    if change.what != compare.PARITY or outcome is None:
        return outcome
    limit = next((row.limit for row in now.rows if row.backend == change.where), None)
    if outcome != "worse" or limit is None:
        return None
    if change.candidate <= limit:
        notes.append(
            f"{now.name}, {change.where}: the largest error grew from {change.base:.3g} to {change.candidate:.3g} × the noise floor, "
            f"within its budget of {limit:g}"
        )
        return None
    return "worse"


def _shift(change: Change, outcome: ShiftOutcome, now: Entry) -> Shift:
    about = change.where.partition(", ")[0]
    required = any(row.required for row in now.rows if about in {row.backend, row.artifact})
    return Shift(
        name=now.name,
        what=change.what,
        where=change.where,
        outcome=outcome,
        required=required,
        reason=change.reason,
        base=change.base,
        candidate=change.candidate,
        ratio=change.ratio,
        interval=change.interval,
    )
