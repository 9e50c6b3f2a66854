"""The plots of the HTML report, as Vega-Lite specifications. Every figure in them stands in a table below them too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.interface import in_words
from pipeline.report import chosen, starting

if TYPE_CHECKING:
    from pipeline.benchmark.document import Figures, Graph, Size
    from pipeline.parity.document import Parity
    from pipeline.report.document import Documents

    Spec = dict[str, Any]

WIDTH = "container"
_SMALLEST = 1e-3  # of the factors on a logarithmic axis
_SHOWN_OPERATORS = 20
ROW_HEIGHT = 34


def charts(documents: Documents) -> dict[str, tuple[str, Spec]]:
    """Return each plot by its name in the content, with the words that stand for it where it cannot be seen."""
    parity, benchmark = documents.parity, documents.benchmark
    made: dict[str, tuple[str, Any]] = {chosen.PARETO: (chosen.pareto_caption(), chosen.pareto(documents))}
    for index, size in enumerate(benchmark.sizes):
        made[f"ratio-{index}"] = _ratio_caption(size), _ratio(size)
        made[f"latency-{index}"] = _latency_caption(size), _latency(size)
    if figures := benchmark.figures:
        made["throughput"] = _throughput_caption(figures), _throughput(figures)
        made["cold"] = _cold_caption(figures), _cold(figures)
        made["memory"] = (
            "Memory over that of an idle worker in MB: peak and steady, medians over launches",
            _memory(figures),
        )
        if figures.roofline.flops_per_s:
            made["roofline"] = (
                "Share of what this machine reaches in a plain matrix product (operations) and in a plain copy (bytes), in %",
                _roofline(figures),
            )
        if figures.graph:
            made["operators"] = _operators_caption(figures.graph), _operators(figures.graph)
    made["parity"] = _parity_caption(parity), _parity(parity)
    return {name: (words, chart.to_dict()) for name, (words, chart) in made.items() if chart is not None}


def _values(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.InlineData(values=rows)


def _bars(rows: int) -> dict[str, Any]:
    return {"width": WIDTH, "height": max(rows, 1) * ROW_HEIGHT}


def _ratio_caption(size: Size) -> str:
    launches = max((row.launches for row in size.rows), default=0)
    return (
        f"Time of a call ÷ that of {size.reference}, {in_words(size.sizes)}: the estimate (point) and its "
        f"{size.confidence:.0%} interval (bar) over {launches} launches; dashed: 1 and the margin of ±{100 * size.margin:.3g} %. "
        "Linear axis; a bar that reaches past it is cut off there, and whole in the table"
    )


def _ratio(size: Size) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"backend": row.name, "ratio": row.ratio, "low": row.interval[0], "high": row.interval[1], "verdict": row.verdict}
        for row in size.rows
        if row.interval and row.ratio
    ]  # fmt: skip
    if not rows:
        return None
    # An interval of few launches may span orders of magnitude: what is off the axis is in the table.
    highest = max(1.2, *(2 * row.ratio for row in size.rows if row.interval and row.ratio))
    base = alt.Chart(_values(rows)).encode(y=alt.Y("backend:N", title=None))
    bar = base.mark_rule(strokeWidth=3, clip=True).encode(
        x=alt.X("low:Q", title=f"time ÷ {size.reference} (1 = as fast)", scale=alt.Scale(domain=[0, highest])),
        x2="high:Q",
    )
    point = base.mark_point(filled=True, size=110, clip=True).encode(
        x="ratio:Q",
        color=alt.Color("verdict:N", scale=_verdicts(), legend=alt.Legend(orient="bottom", title=None)),
        tooltip=["backend:N", "ratio:Q", "low:Q", "high:Q", "verdict:N"],
    )
    edges: list[dict[str, Any]] = [{"x": each} for each in (1 / (1 + size.margin), 1.0, 1 + size.margin)]
    dashed = alt.Chart(_values(edges)).mark_rule(strokeDash=[4, 4], clip=True).encode(x="x:Q")
    return alt.layer(dashed, bar, point).properties(**_bars(len(rows)))


def _verdicts() -> Any:
    import altair as alt

    names = ["faster", "same", "undecided", "slower"]
    return alt.Scale(domain=names, range=["#1a9850", "#4575b4", "#888888", "#d73027"])


def _latency_caption(size: Size) -> str:
    counts = ", ".join(f"{name} {len(calls):,}" for name, calls in _calls_ms(size).items())
    return (
        f"Time of a call in ms, {in_words(size.sizes)}, logarithmic axis: line from the 5th to the 95th percentile, box from the 25th "
        f"to the 75th, mark at the median (p50). Calls kept: {counts}"
    )


def _calls_ms(size: Size) -> dict[str, list[float]]:
    """Return the calls of each backend that were kept, of all launches, in order of their time."""
    found = {}
    for name in size.measurements.arms:
        arms = [launch.arms[name] for launch in size.measurements.launches if name in launch.arms]
        calls = [duration / 1e6 for arm in arms for block in arm.blocks for duration in block.durations_ns]
        if len(calls) > 1:
            found[name] = sorted(calls)
    return found


def _latency(size: Size) -> Any:
    import altair as alt

    shares = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
    rows: list[dict[str, Any]] = [
        # The ranks that the table's quantiles have, so that both show the same call.
        {"backend": name, **{key: calls[max(math.ceil(share * len(calls)), 1) - 1] for key, share in shares.items()}}
        for name, calls in _calls_ms(size).items()
    ]
    if not rows:
        return None
    base = alt.Chart(_values(rows)).encode(y=alt.Y("backend:N", title=None))
    scale = alt.Scale(type="log", nice=False, padding=10)
    whisker = base.mark_rule().encode(
        x=alt.X("p5:Q", title="ms a call", scale=scale, axis=alt.Axis(tickCount=6)), x2="p95:Q"
    )
    box = base.mark_bar(size=14, color="#4575b4").encode(x="p25:Q", x2="p75:Q")
    middle = base.mark_tick(color="#d95f02", thickness=3, size=20).encode(
        x="p50:Q", tooltip=["backend:N", *(f"{key}:Q" for key in shares)]
    )
    return alt.layer(whisker, box, middle).properties(**_bars(len(rows)))


def _batch(figures: Figures) -> str:
    """Return the name of the dimension that throughput counts items by."""
    return next((name for each in figures.throughput for name in each.sizes), "batch")


def _throughput_caption(figures: Figures) -> str:
    batch = _batch(figures)
    return (
        f"Items a second with one caller (lines) over {batch}, logarithmic axis; with several callers (shapes) at the smallest "
        f"{batch}; one short stretch a point"
    )


def _throughput(figures: Figures) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"backend": each.name, "per_second": each.per_second, "callers": each.callers,
         "batch": next(iter(each.sizes.values()), 1), "sizes": in_words(each.sizes)}
        for each in figures.throughput
    ]  # fmt: skip
    if not rows:
        return None
    alone = [row for row in rows if row["callers"] == 1]
    first = min(row["batch"] for row in rows)
    together = [row for row in rows if row["batch"] == first]

    def lines(data: list[dict[str, Any]], over: str, title: str) -> Any:
        chart = alt.Chart(_values(data)).mark_line(point=True)
        return chart.encode(
            x=alt.X(f"{over}:Q", title=title, scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=6)),
            y=alt.Y("per_second:Q", title="items/s", axis=alt.Axis(format="~s")),
            color=alt.Color("backend:N", legend=alt.Legend(orient="bottom", title=None, columns=2)),
            tooltip=["backend:N", "sizes:N", "callers:Q", "per_second:Q"],
        ).properties(width=WIDTH, height=180)

    # A concatenation cannot take the width of its container, so the number of callers is drawn by shape instead.
    several = alt.Chart(_values([row for row in together if row["callers"] > 1])).mark_point(size=70).encode(
        x="batch:Q", y="per_second:Q", color="backend:N",
        shape=alt.Shape("callers:N", legend=alt.Legend(orient="bottom", title="callers")),
        tooltip=["backend:N", "callers:Q", "per_second:Q"],
    )  # fmt: skip
    return alt.layer(lines(alone, "batch", _batch(figures)), several).properties(width=WIDTH, height=220)


def _cold_caption(figures: Figures) -> str:
    first = next((name for each in figures.backends for name in each.first_call_ms), "")
    return f"Time in ms until the first answer, in its parts, medians over launches; the first call at {first}"


def _cold(figures: Figures) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"backend": each.name, "part": part, "ms": value or 0.0, "order": index}
        for each in figures.backends
        for index, (part, value) in enumerate(starting.spans(each).items())
    ]
    if not rows:
        return None
    chart = alt.Chart(_values(rows)).mark_bar()
    return chart.encode(
        y=alt.Y("backend:N", title=None),
        x=alt.X("ms:Q", title="ms until the first answer"),
        color=alt.Color(
            "part:N",
            sort=list(starting.PARTS),
            legend=alt.Legend(orient="bottom", title=None, columns=2),
        ),
        order="order:Q",
        tooltip=["backend:N", "part:N", "ms:Q"],
    ).properties(**_bars(len(figures.backends)))


def _memory(figures: Figures) -> Any:
    rows: list[dict[str, Any]] = [
        {"backend": each.name, "kind": kind, "MB": held / 1e6}
        for each in figures.backends
        for kind, held in (("peak", each.peak_bytes), ("steady", each.steady_bytes))
        if held is not None
    ]
    if not rows:
        return None
    return _grouped(rows, "kind", "MB", "MB over an idle worker")


def _roofline(figures: Figures) -> Any:
    rows: list[dict[str, Any]] = [
        {"backend": f"{each.name}, {scenario}", "of": title, "share": share * 100}
        for scenario, found in figures.achieved.items()
        for each in found
        for share, title in ((each.flops_per_s_share, "matrix product"), (each.bytes_per_s_share, "copy"))
        if share
    ]
    if not rows:
        return None
    return _grouped(rows, "of", "share", "% of what this processor reaches")


def _grouped(rows: list[dict[str, Any]], group: str, value: str, title: str) -> Any:
    """Return bars of each backend, side by side by `group`."""
    import altair as alt

    chart = alt.Chart(_values(rows)).mark_bar()
    return chart.encode(
        y=alt.Y("backend:N", title=None),
        yOffset=f"{group}:N",
        x=alt.X(f"{value}:Q", title=title),
        color=alt.Color(f"{group}:N", legend=alt.Legend(orient="bottom", title=None)),
        tooltip=["backend:N", f"{group}:N", f"{value}:Q"],
    ).properties(**_bars(len(rows)))


def _operators_caption(graph: Graph) -> str:
    more = len(graph.operators) - _SHOWN_OPERATORS
    return "Number of nodes by operator" + (
        f": the {_SHOWN_OPERATORS} most frequent, without {more} more" if more > 0 else ""
    )


def _operators(graph: Graph) -> Any:
    import altair as alt

    most = sorted(graph.operators.items(), key=lambda each: -each[1])[:_SHOWN_OPERATORS]
    rows: list[dict[str, Any]] = [{"operator": name, "nodes": count} for name, count in most]
    chart = alt.Chart(_values(rows)).mark_bar()
    return chart.encode(
        y=alt.Y("operator:N", title=None, sort="-x"),
        x=alt.X("nodes:Q", axis=alt.Axis(tickMinStep=1)),
        tooltip=["operator:N", "nodes:Q"],
    ).properties(width=WIDTH, height=max(len(rows), 1) * 20)


def _parity_caption(parity: Parity) -> str:
    shown = [finding for backend in parity.backends for finding in backend.findings]
    left = sum(not math.isfinite(each.factor) for each in shown)
    explicit = [name for name, rule in parity.rules.items() if rule.explicit]
    return (
        f"Error of each output in each case, {len(shown) - left} points, as a factor of the noise floor"
        + (f" (of {', '.join(explicit)}: of what atol and rtol allow)" if explicit else "")
        + f", logarithmic axis; red line: the limit; crosses leave it. What is below {_SMALLEST:g} is drawn there"
        + (f"; {left} that are no number are in the table alone" if left else "")
    )


def _parity(parity: Parity) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"output": finding.output, "backend": backend.name, "case": finding.case,
         "factor": max(finding.factor, _SMALLEST), "limit": finding.limit, "verdict": "pass" if finding.passed else "FAIL"}
        for backend in parity.backends
        for finding in backend.findings
        if math.isfinite(finding.factor)
    ]  # fmt: skip
    if not rows:
        return None
    base = alt.Chart(_values(rows))
    points = base.mark_point(size=60).encode(
        x=alt.X("factor:Q", title="error ÷ noise floor", scale=alt.Scale(type="log")),
        y=alt.Y("output:N", title=None, axis=alt.Axis(labelLimit=110)),
        yOffset="backend:N",
        color=alt.Color("backend:N", legend=alt.Legend(orient="bottom", title=None, columns=2)),
        shape=alt.Shape(
            "verdict:N",
            scale=alt.Scale(domain=["pass", "FAIL"], range=["circle", "cross"]),
            legend=alt.Legend(orient="bottom", title=None),
        ),
        tooltip=["backend:N", "output:N", "case:N", "verdict:N", "factor:Q", "limit:Q"],
    )
    limit = base.mark_tick(thickness=3, size=40, color="#d73027").encode(x="limit:Q", y="output:N")
    outputs = len({row["output"] for row in rows})
    return alt.layer(points, limit).properties(width=WIDTH, height=max(90, outputs * 60))
