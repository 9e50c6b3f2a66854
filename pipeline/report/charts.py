"""The plots of the HTML report, as Vega-Lite specifications. Every figure in them stands in a table below them too."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from pipeline.interface import in_words

if TYPE_CHECKING:
    from pipeline.benchmark.document import Benchmark, Figures, Graph, Size
    from pipeline.parity.document import Parity

    Spec = dict[str, Any]

WIDTH = "container"
ROW_HEIGHT = 34


def charts(parity: Parity, benchmark: Benchmark) -> dict[str, tuple[str, Spec]]:
    """Return each plot by its name in the content, with the words that stand for it where it cannot be seen."""
    made: dict[str, tuple[str, Any]] = {}
    for index, size in enumerate(benchmark.sizes):
        where = in_words(size.sizes)
        made[f"ratio-{index}"] = f"Time over that of {size.reference} with its interval, {where}", _ratio(size)
        made[f"latency-{index}"] = f"Distribution of the time of a call by backend, {where}", _latency(size)
    if figures := benchmark.figures:
        made["throughput"] = "Items a second over the batch size, and over the number of callers", _throughput(figures)
        made["cold"] = "Time to start, import, load and make the first call, by backend", _cold(figures)
        made["memory"] = "Peak and steady memory by backend", _memory(figures)
        if figures.roofline.flops_per_s:
            made["roofline"] = (
                "Share of this machine's plain matrix product and copy that is reached",
                _roofline(figures),
            )
        if figures.graph:
            made["operators"] = "Number of nodes by operator", _operators(figures.graph)
    made["parity"] = "Error of every output and case as a factor of the noise floor, against the limit", _parity(parity)
    return {name: (words, chart.to_dict()) for name, (words, chart) in made.items() if chart is not None}


def _values(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.InlineData(values=rows)


def _bars(rows: int) -> dict[str, Any]:
    return {"width": WIDTH, "height": max(rows, 1) * ROW_HEIGHT}


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
    one = alt.Chart(_values([{"x": 1}])).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(one, bar, point).properties(**_bars(len(rows)))


def _verdicts() -> Any:
    import altair as alt

    names = ["faster", "same", "undecided", "slower"]
    return alt.Scale(domain=names, range=["#1a9850", "#4575b4", "#888888", "#d73027"])


def _latency(size: Size) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = []
    for name in size.measurements.arms:
        calls = [
            duration / 1e6
            for launch in size.measurements.launches
            if name in launch.arms
            for block in launch.arms[name].blocks
            for duration in block.durations_ns
        ]
        if len(calls) > 1:
            cuts = statistics.quantiles(calls, n=20, method="inclusive")
            shown = {"p5": cuts[0], "p25": cuts[4], "p50": cuts[9], "p75": cuts[14], "p95": cuts[18]}
            rows.append({"backend": name, **shown})
    if not rows:
        return None
    base = alt.Chart(_values(rows)).encode(y=alt.Y("backend:N", title=None))
    scale = alt.Scale(type="log", nice=False, padding=10)
    whisker = base.mark_rule().encode(
        x=alt.X("p5:Q", title="ms a call (5 to 95 %, quartiles, median)", scale=scale), x2="p95:Q"
    )
    box = base.mark_bar(size=14, color="#4575b4").encode(x="p25:Q", x2="p75:Q")
    middle = base.mark_tick(color="#d95f02", thickness=3, size=20).encode(
        x="p50:Q", tooltip=["backend:N", "p5:Q", "p50:Q", "p95:Q"]
    )
    return alt.layer(whisker, box, middle).properties(**_bars(len(rows)))


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
    return alt.layer(lines(alone, "batch", "batch"), several).properties(width=WIDTH, height=220)


def _cold(figures: Figures) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = []
    for each in figures.backends:
        first = next(iter(each.first_call_ms.values()), None)
        spans = {"import": each.import_ms, "load": each.load_ms, "first call": first}
        known = {key: value or 0.0 for key, value in spans.items()}
        known = {"process": max((each.start_ms or 0.0) - known["import"] - known["load"], 0.0), **known}
        rows += [
            {"backend": each.name, "part": part, "ms": value, "order": index}
            for index, (part, value) in enumerate(known.items())
        ]
    if not rows:
        return None
    chart = alt.Chart(_values(rows)).mark_bar()
    return chart.encode(
        y=alt.Y("backend:N", title=None),
        x=alt.X("ms:Q", title="ms until the first answer"),
        color=alt.Color(
            "part:N",
            sort=["process", "import", "load", "first call"],
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


def _operators(graph: Graph) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"operator": name, "nodes": count} for name, count in list(graph.operators.items())[:20]
    ]
    chart = alt.Chart(_values(rows)).mark_bar()
    return chart.encode(
        y=alt.Y("operator:N", title=None, sort="-x"),
        x=alt.X("nodes:Q", axis=alt.Axis(tickMinStep=1)),
        tooltip=["operator:N", "nodes:Q"],
    ).properties(width=WIDTH, height=max(len(rows), 1) * 20)


def _parity(parity: Parity) -> Any:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"output": finding.output, "backend": backend.name, "case": finding.case,
         "factor": max(finding.factor, 1e-3), "limit": finding.limit}
        for backend in parity.backends
        for finding in backend.findings
        if math.isfinite(finding.factor)
    ]  # fmt: skip
    if not rows:
        return None
    base = alt.Chart(_values(rows))
    points = base.mark_point(size=60).encode(
        x=alt.X("factor:Q", title="error ÷ noise floor (dashed: the limit)", scale=alt.Scale(type="log")),
        y=alt.Y("output:N", title=None, axis=alt.Axis(labelLimit=110)),
        yOffset="backend:N",
        color=alt.Color("backend:N", legend=alt.Legend(orient="bottom", title=None, columns=2)),
        tooltip=["backend:N", "output:N", "case:N", "factor:Q", "limit:Q"],
    )
    limit = base.mark_tick(thickness=3, size=40, color="#d73027").encode(x="limit:Q", y="output:N")
    outputs = len({row["output"] for row in rows})
    return alt.layer(points, limit).properties(width=WIDTH, height=max(90, outputs * 60))
