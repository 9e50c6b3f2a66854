"""What a replay found, in words: a table of releases by candidates, what breaks and why, and the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.errors import command, in_line
from pipeline.report.console import print_section
from pipeline.report.section import VERDICT, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from pipeline.fleet.replay.replay import Replayed, Row, Tried, Verdict
    from pipeline.fleet.replay.trial import Result
    from pipeline.report.section import Tone

_TONES: dict[Verdict, Tone] = {
    "holds": "good",
    "mended": "good",
    "would break": "bad",
    "fails today as well": "bad",
    "not judged": "warn",
}
_SHOWN = 3
"""Findings of one way that are told; the rest is counted."""


def print_replayed(found: Replayed) -> None:
    """Print the table to stdout, and of everything that does not hold where it begins and who is to blame."""
    for each in found.candidates:
        if each.rows:
            print_section(_table(each))
            print("\n".join(_below(each)))


def _table(tried: Tried) -> Section:
    body, tones = [], []
    for row in tried.rows:
        required = "required" if row.way.is_required else ""
        body.append(
            (
                row.release.label,
                row.way.name,
                required,
                row.way.file,
                _figure(row.today),
                _figure(row.then),
                row.verdict,
            )
        )
        tones.append(_TONES[row.verdict])
    headings = ("release", "backend", "", "file", "× allowance today", "then", VERDICT)
    return Section(f"with {tried.candidate.label}", (), headings, tuple(body), tones=tuple(tones))


def _figure(result: Result) -> str:
    if result.factor is None:
        return {"cannot run": "cannot run", "holds": "released"}.get(result.outcome, "failed")
    return times(result.factor)


def times(factor: float) -> str:
    """Return a multiple of what is allowed as people read it: three digits, no exponent below a million."""
    if math.isinf(factor):
        return "beyond any"
    return f"{factor:.3g}" if factor < 1000 or factor >= 1e6 else f"{factor:,.0f}"


def _below(tried: Tried) -> Iterator[str]:
    """Yield what the table cannot say."""
    environment = tried.environment
    if environment:
        changed = (
            in_line([each.in_words() for each in environment.changes]) or "nothing: these versions are here already"
        )
        how = "kept" if environment.is_kept else f"made by {environment.installer} in {environment.seconds:.0f} s"
        yield f"changed: {changed}" + (f" ({how})" if environment.changes else "")
        yield from (f"conflict: {each}" for each in environment.conflicts)
    for row in tried.rows:
        if row.verdict == "holds":
            continue
        of = f"{row.release.label}: {row.way.name}, {row.way.file}: {row.verdict}"
        yield of
        for each in row.then.findings[:_SHOWN]:
            where = f"output '{each.output}', case {each.case}: " if each.output else ""
            factor = f"{times(each.factor)} × its allowance: " if each.factor is not None else ""
            yield f"  {where}{factor}{each.reason}"
        if (more := len(row.then.findings) - _SHOWN) > 0:
            yield f"  and {more} more outputs of cases (--json lists all)"
        if row.blame:
            yield f"  to blame: {', '.join(row.blame)}"
        yield from (f"  {each}" for each in row.remarks)


def answer(found: Replayed) -> Iterator[str]:
    """Yield the answer for every candidate, and what to do next: a line each."""
    for each in found.candidates:
        yield _answer(each)
    if count := len(found.refused):
        of = f"{count} of {count + len(found.releases)} releases"
        yield f"no: {of} could not be replayed (above); next: {command('verify', found.refused[0].path)}"


def _answer(tried: Tried) -> str:
    label = tried.candidate.label
    noun = "backends and exports" if any(each.way.source for each in tried.rows) else "backends"
    quoted = " ".join(f"'{each.text}'" for each in tried.candidate.requirements)
    if tried.error:
        return f"unknown: {tried.error.message}\nfix:   {tried.error.hint}"
    if broken := tried.broken:
        releases = list(dict.fromkeys(each.release.label for each in broken))
        to_blame = list(dict.fromkeys(name for each in broken for name in each.blame))
        why = f" ({in_line(to_blame)})" if to_blame else ""
        return (
            f"no: with {label} {len(broken)} required of {len(tried.rows)} {noun} would break, in {in_line(releases)}{why}; "
            f"next: stay, or export again with it: {command('export', 'CONFIG')}"
        )
    if not tried.rows:
        return f"unknown: with {label}: these releases hold no file that was proven on a backend; next: {command('export', 'CONFIG')}"
    if tried.unjudged:
        names = in_line([f"{each.release.label} {each.way.name}: {each.then.reason}" for each in tried.unjudged])
        return f"unknown: with {label} nothing else would break, but required backends cannot be judged here: {names}; next: replay where they run"
    kept = sum(each.verdict in {"holds", "mended"} for each in tried.rows)
    optional = [each for each in tried.rows if each.verdict in {"would break", "fails today as well"}]
    but = f"; not required, and would break: {in_line([each.way.name for each in optional])}" if optional else ""
    if tried.environment and not tried.environment.changes:
        return f"yes: with {label} nothing changes, and {kept} of {len(tried.rows)} {noun} hold, all required ones{but}; next: nothing"
    if tried.environment and (others := tried.environment.conflicts):
        but += f"; but {len(others)} other distributions here ask for another version (above)"
    return (
        f"yes: with {label} {kept} of {len(tried.rows)} {noun} hold, all required ones{but}; next: pip install {quoted}"
    )


def to_json(found: Replayed) -> dict[str, JsonValue]:
    """Return all of it as JSON values; a factor beyond any number is "inf"."""
    return {
        "may_upgrade": {each.candidate.label: _may(found, each) for each in found.candidates},
        "exit_code": found.exit_code,
        "installer": found.installer,
        "releases": [{"path": str(each.path), "name": each.name, "version": each.version} for each in found.releases],
        "refused": [
            {
                "path": str(each.path),
                "message": each.error.message,
                "hint": each.error.hint,
                "exit_code": each.error.exit_code,
            }
            for each in found.refused
        ],
        "candidates": [_candidate(each) for each in found.candidates],
    }


def _may(found: Replayed, tried: Tried) -> bool | None:
    """Return whether a candidate may be taken; None where that is not known, of a release that was not replayed for instance."""
    if tried.exit_code == 1:
        return False
    return None if tried.exit_code or found.refused else True


def _candidate(tried: Tried) -> JsonValue:
    environment = tried.environment
    return {
        "with": [each.text for each in tried.candidate.requirements],
        "exit_code": tried.exit_code,
        "error": {"message": tried.error.message, "hint": tried.error.hint} if tried.error else None,
        "environment": None
        if environment is None
        else {
            "folder": str(environment.folder) if environment.folder else None,
            "changes": [{"name": each.name, "here": each.here, "there": each.there} for each in environment.changes],
            "conflicts": list(environment.conflicts),
            "kept": environment.is_kept,
            "seconds": round(environment.seconds, 1),
        },
        "results": [_row(each) for each in tried.rows],
    }


def _row(row: Row) -> JsonValue:
    return {
        "release": str(row.release.path),
        "backend": row.way.name,
        "file": row.way.file,
        "required": row.way.is_required,
        "verdict": row.verdict,
        "today": _result(row.today),
        "then": _result(row.then),
        "blame": list(row.blame),
        "remarks": list(row.remarks),
    }


def _result(result: Result) -> JsonValue:
    return {
        "outcome": result.outcome,
        "factor": _number(result.factor),
        "findings": [
            {"reason": each.reason, "case": each.case, "output": each.output, "factor": _number(each.factor)}
            for each in result.findings
        ],
    }


def _number(value: float | None) -> JsonValue:
    return "inf" if value is not None and math.isinf(value) else value
