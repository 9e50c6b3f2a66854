"""What `weighbridge tune` found, as a section of a report and as a plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.benchmark import recommended
from pipeline.interface import in_words
from pipeline.report.section import VERDICT, Section
from pipeline.report.words import factor, in_units, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.benchmark.recommended import Candidate, Recommended
    from pipeline.report.document import Documents
    from pipeline.report.section import Tone

TITLE = "The choice"
PARETO = "pareto"
LEAST_SHOWN = 3
"""With fewer candidates there is nothing to see in a plot."""
_SMALLEST = 1e-3
_HEADINGS = (
    "candidate",
    VERDICT,
    "a call",
    "p99",
    "memory",
    "file",
    "× noise floor",
    "÷ leader",
    "95 % interval",
    "why",
)


@dataclass(frozen=True, slots=True)
class Point:
    """One of what was timed: the time of a call in ms, the size of its file, its largest error, and what it was called."""

    name: str
    ms: float
    file_bytes: int
    factor: float
    verdict: str


def sections(documents: Documents) -> Iterator[Section]:
    """Yield what was recommended, or, where more than two files were timed, how they compare."""
    plots = (PARETO,) if len(points(documents)) >= LEAST_SHOWN else ()
    if found := documents.recommended:
        yield section(found, plots)
    elif plots:
        body = tuple(
            (each.name, milliseconds(each.ms), in_units(each.file_bytes), factor(each.factor))
            for each in points(documents)
        )
        text = ("How the files compare; `weighbridge tune CONFIG` says which to take, and proves it.",)
        yield Section(TITLE, text, ("backend", "a call", "file", "× noise floor"), body, plots)


def section(found: Recommended, plots: tuple[str, ...] = ()) -> Section:
    """Return what was recommended, every candidate, and why each other one is not it."""
    order = sorted(
        found.candidates,
        key=lambda each: (each.name != found.chosen, each.name not in found.tied, each.ratio or math.inf),
    )
    said = recommended.in_words(found)
    text = (
        f"{said[:1].upper()}{said[1:]}.",
        (
            f"At {in_words(found.sizes) or 'the only size'}, {found.callers} call under way; {found.launches} launches and "
            f"{found.confirmations} new ones to confirm, {found.seconds:.0f} s; on {found.processor}, {found.cores} processors."
        ),
        "Each candidate was proven with its options before it was raced.",
        *(f"{each[:1].upper()}{each[1:]}." for each in found.notes),
    )
    return Section(
        TITLE,
        text,
        _HEADINGS,
        tuple(_row(found, each) for each in order),
        plots,
        tones=tuple(_tone(found, each) for each in order),
    )


def _row(found: Recommended, each: Candidate) -> tuple[str, ...]:
    return (
        each.name,
        _verdict(found, each),
        milliseconds(each.median_ms),
        "" if each.p99 is None else milliseconds(each.p99.value_ms),
        in_units(each.peak_bytes),
        in_units(each.file_bytes),
        factor(each.factor),
        "" if each.ratio is None else f"{each.ratio:.3f}",
        "" if each.interval is None else f"{each.interval[0]:.3f} – {each.interval[1]:.3f}",
        each.left or "",
    )


def _verdict(found: Recommended, each: Candidate) -> str:
    if each.name == found.chosen:
        return "recommended"
    return "not told apart" if each.name in found.tied else "left out"


def _tone(found: Recommended, each: Candidate) -> Tone:
    if each.name == found.chosen:
        return "good"
    return "warn" if each.name in found.tied else "neutral"


def points(documents: Documents) -> list[Point]:
    """Return what was timed that has a file: the candidates of a choice, or else the backends of the first size of a benchmark."""
    if found := documents.recommended:
        return [
            Point(each.name, each.median_ms, each.file_bytes, each.factor, _verdict(found, each))
            for each in found.candidates
            if each.median_ms is not None and each.factor is not None and math.isfinite(each.factor)
        ]
    benchmark, parity = documents.benchmark, documents.parity
    if not benchmark.sizes or benchmark.figures is None:
        return []
    sizes = {each.name: each.file_bytes for each in benchmark.figures.backends if each.file_bytes}
    worst = {each.name: each.worst.factor for each in parity.backends if each.worst and each.status == "pass"}
    variants = {name: arm.variant for name, arm in benchmark.arms.items()}
    return [
        Point(row.name, row.median_ms, sizes[row.name], factor_, row.verdict)
        for row in benchmark.sizes[0].rows
        if row.name in sizes
        and row.median_ms is not None
        and (factor_ := worst.get(variants.get(row.name, row.name))) is not None
        and math.isfinite(factor_)
    ]


def pareto_caption() -> str:
    """Return the words that stand for the plot where it cannot be seen."""
    return (
        "Time of a call (across, logarithmic) by size of the file (up, logarithmic); the larger the mark, the larger the worst error ÷ noise "
        "floor; ringed: nothing else is better in one of the three and as good in the others"
    )


def is_beaten(one: Point, others: list[Point]) -> bool:
    """Whether another point is nowhere worse than this one, and somewhere better."""
    mine = (one.ms, one.file_bytes, one.factor)
    theirs = [(each.ms, each.file_bytes, each.factor) for each in others]
    return any(each != mine and all(a <= b for a, b in zip(each, mine, strict=True)) for each in theirs)


def pareto(documents: Documents) -> Any:
    """Return the plot, None where there is nothing to see."""
    import altair as alt

    found = points(documents)
    if len(found) < LEAST_SHOWN:
        return None
    rows: list[dict[str, Any]] = [
        {"candidate": each.name, "ms": each.ms, "kB": each.file_bytes / 1e3, "factor": max(each.factor, _SMALLEST),
         "verdict": each.verdict, "best": "no" if is_beaten(each, found) else "yes"}
        for each in found
    ]  # fmt: skip
    return (
        alt.Chart(alt.InlineData(values=rows))
        .mark_point(filled=True, strokeWidth=2)
        .encode(
            x=alt.X("ms:Q", title="ms a call", scale=alt.Scale(type="log", nice=False, padding=20)),
            y=alt.Y("kB:Q", title="file in kB", scale=alt.Scale(type="log", nice=False, padding=20)),
            size=alt.Size(
                "factor:Q",
                title="error ÷ noise floor",
                legend=alt.Legend(orient="bottom"),
                scale=alt.Scale(range=[60, 500]),
            ),
            color=alt.Color("candidate:N", legend=alt.Legend(orient="bottom", title=None, columns=2, labelLimit=300)),
            stroke=alt.Stroke(
                "best:N", legend=None, scale=alt.Scale(domain=["no", "yes"], range=["transparent", "#222222"])
            ),
            tooltip=["candidate:N", "verdict:N", "ms:Q", "kB:Q", "factor:Q"],
        )
        .properties(width="container", height=240)
    )
