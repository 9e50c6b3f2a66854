"""The table every report shows: stage, backend, verdict, factor, latency, size — one line each, as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.interface import in_words
from pipeline.parity.document import Exported
from pipeline.report.section import Section
from pipeline.report.words import factor, in_units, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.benchmark.document import Benchmark
    from pipeline.benchmark.statistics import Row
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import Audit, BackendResult, Parity
    from pipeline.report.section import Tone

_SHOWN_FACTS = 2
HEADINGS = ("stage", "backend", "verdict", "× noise floor", "latency", "size")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; `why` is the reason of a verdict that has one to tell."""

    stage: str
    backend: str
    verdict: str
    factor: str = ""
    latency: str = ""
    size: str = ""
    tone: Tone = "neutral"
    why: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells in the order of `HEADINGS`."""
        return (self.stage, self.backend, self.verdict, self.factor, self.latency, self.size)


def lines(parity: Parity, benchmark: Benchmark) -> list[Line]:
    """Return the table of a run from its two documents."""
    return [_trained(parity), *_exports(parity), *_backends(parity), *_timings(benchmark)]


def section(parity: Parity, benchmark: Benchmark) -> Section:
    """Return the table as a section, each verdict with its reason in its cell."""
    found = lines(parity, benchmark)
    body = tuple((each.stage, each.backend, _said(each), *each.cells[3:]) for each in found)
    return Section("Summary", headings=HEADINGS, body=body, tones=tuple(each.tone for each in found))


def reasons(found: Sequence[Line]) -> list[str]:
    """Return what stands behind the verdicts of a table, a sentence a reason: whose it is, and of which stage."""
    whose: dict[tuple[str, str], list[str]] = {}
    for each in found:
        if each.why:
            whose.setdefault((each.stage, f"{each.verdict.partition(' ')[0]}: {each.why}"), []).append(each.backend)
    return [f"{stage}, {', '.join(backends)}: {said}" for (stage, said), backends in whose.items()]


def _said(line: Line) -> str:
    return f"{line.verdict}: {line.why}" if line.why else line.verdict


def _trained(parity: Parity) -> Line:
    """Say whether the network was held against the one that was trained."""
    found = parity.reference
    if found is None:
        return Line("network", "eager", "not compared with the trained network", tone="warn")
    calls = f"the trained network's, {found.calls} call{'s' if found.calls > 1 else ''}"
    return Line("network", "eager", f"pass: {calls}", factor(found.factor), tone="good")


def _exports(parity: Parity) -> Iterator[Line]:
    for each in parity.exports:
        if isinstance(each, Exported):
            yield Line("export", each.artifact, _how(each), size=in_units(each.size_bytes), tone="good")
            yield _audit(each.artifact, each.audit)
            if each.accuracy:
                yield _accuracy(each.artifact, each.accuracy)
        else:
            yield Line("export", each.artifact, "refused", tone="bad", why=each.reason)


def _how(exported: Exported) -> str:
    """Return the plain facts of a file in the order of their names, and what it was made from: "written: export, opset 20"."""
    facts = sorted(exported.facts.items())
    plain = [
        fact if isinstance(fact, str) else f"{name} {fact}"
        for name, fact in facts
        if isinstance(fact, str | int) and not isinstance(fact, bool)
    ]
    said = plain[:_SHOWN_FACTS] + ([f"from {exported.made_from}"] if exported.made_from else [])
    return f"written: {', '.join(said)}" if said else "written"


def _audit(name: str, audit: Audit | None) -> Line:
    if audit is None:
        return Line("audit", name, "not done: its format cannot be audited", tone="warn")
    if not audit.passed:
        said = "could not be done" if audit.crashed else f"FAIL: {audit.problem_count} problems"
        return Line("audit", name, said, tone="bad", why=audit.in_words())
    if audit.not_audited is not None:
        return Line("audit", name, audit.in_words(), tone="warn")
    if left := audit.unaccounted_count:
        said = f"{left} not accounted for ({audit.share:.2%}): {audit.left_in_words()}"
        return Line("audit", name, said, tone="warn")
    return Line("audit", name, f"pass: all of {audit.elements:,} elements", tone="good")


def _accuracy(name: str, found: Accuracy) -> Line:
    """Say whether what an artifact gives is good enough; one that is not and is not required is not released."""
    count = len(found.claims)
    if found.verdict == "pass":
        claims = f"{count} claim{'s' if count > 1 else ''} on {found.claims[0].samples:,} samples"
        return Line("accuracy", name, f"pass: {claims}", tone="good")
    word = "FAIL" if found.verdict == "fail" else found.verdict
    return Line("accuracy", name, word, tone="warn" if word == "undecided" else "bad", why=found.in_words())


def _backends(parity: Parity) -> Iterator[Line]:
    for each in parity.backends:
        shown = factor(each.worst.factor) if each.worst else ""
        word, tone = status(each)
        why = each.reason or "" if not each.required or each.status == "unavailable" else ""
        yield Line("parity", each.name, word, shown, tone=tone, why=why)


def status(result: BackendResult) -> tuple[str, Tone]:
    """Return the word for what became of a backend, and its tone."""
    if result.status == "pass":
        return "pass", "good"
    if result.status == "unavailable" and not result.required:
        return "unavailable", "warn"
    return ("FAIL" if result.status == "fail" else result.status), "bad"


def _timings(benchmark: Benchmark) -> Iterator[Line]:
    for each in benchmark.sizes:
        stage = in_words(each.sizes) if each.sizes else "benchmark"
        for row in each.rows:
            if row.name != each.control:
                why = row.reason if row.verdict == "undecided" else ""
                yield Line(stage, row.name, _verdict(row), latency=_latency(row), tone=speed(row), why=why)


def speed(row: Row) -> Tone:
    """Return the tone of a verdict on speed: being slower is nothing wrong."""
    if row.verdict == "faster":
        return "good"
    return "warn" if row.verdict in {"slower", "undecided"} else "neutral"


def _verdict(row: Row) -> str:
    if row.ratio is None or row.interval is None:
        return row.verdict
    low, high = row.interval
    return f"{row.verdict} {row.ratio:.2f} [{low:.2f}, {high:.2f}]"


def _latency(row: Row) -> str:
    if row.median_ms is None:
        return ""
    if row.median_interval_ms is None:
        return milliseconds(row.median_ms)
    low, high = row.median_interval_ms
    scale, unit = (1e3, "µs") if row.median_ms < 0.1 else (1.0, "ms")
    return f"{row.median_ms * scale:.3g} [{low * scale:.3g}, {high * scale:.3g}] {unit}"
