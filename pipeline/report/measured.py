"""What was measured, as sections of a report: latencies, throughput, starting, memory, the GPU, the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.interface import in_words
from pipeline.report import starting
from pipeline.report.section import VERDICT, Section
from pipeline.report.summary import speed
from pipeline.report.words import in_units, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.benchmark.document import Benchmark, Energy, Figures, Size
    from pipeline.benchmark.statistics import Quantile, Row


def besides_latency(benchmark: Benchmark) -> list[Section]:
    """Return the sections on what else was measured, those with a table."""
    if benchmark.figures is None:
        return []
    found = [*started(benchmark.figures), *gpu(benchmark), *_roofline(benchmark.figures)]
    return [section for section in found if section.body]


def latency(benchmark: Benchmark) -> Iterator[Section]:
    """Yield a section a size: every backend's verdict with its reason, and the time of its calls."""
    headings = ("backend", VERDICT, "ratio", "95 % interval", "median", "p50", "p90", "p95", "p99", "calls", "why")
    for index, size in enumerate(benchmark.sizes):
        body = tuple(
            (
                row.name,
                row.verdict,
                "" if row.ratio is None else f"{row.ratio:.3f}",
                "" if row.interval is None else f"{row.interval[0]:.3f} – {row.interval[1]:.3f}",
                milliseconds(row.median_ms),
                *(_quantile(each) for each in (row.p50, row.p90, row.p95, row.p99)),
                f"{row.calls:,} in {row.launches} launches",
                _why(size, row),
            )
            for row in size.rows
        )
        text = (
            f"{size.reason[:1].upper()}{size.reason[1:]}; margin {size.margin:.1%}, confidence {size.confidence:.0%}.",
            "The median is that of launches (their geometric mean), p50 to p99 are of all calls together.",
            *(f"{each[:1].upper()}{each[1:]}." for each in size.measurements.notes),
            *(f"{name} dropped out: {reason}" for name, reason in size.measurements.failures.items()),
        )
        tones = tuple(map(speed, size.rows))
        charts = (f"ratio-{index}", f"latency-{index}")
        yield Section(f"Latency, {in_words(size.sizes)}", text, headings, body, charts, tones=tones)


def _why(size: Size, row: Row) -> str:
    """Return the reason of a verdict; what stands above the table is not said again in each row."""
    why = "this run cannot tell, as said above" if row.reason == size.reason else row.reason
    return why + ("" if row.settled else "; never settled while warming up")


def started(figures: Figures) -> Iterator[Section]:
    """What backends get through, how they start and what they hold."""
    body = tuple(
        (each.name, in_words(each.sizes), str(each.callers), f"{each.per_second:,.4g}", f"{each.calls:,}")
        for each in figures.throughput
    )
    text = ["Items (of the batch) a second; one short stretch each, in what the latencies left of the budget."]
    if left_out := len(figures.throughput_notes):
        text.append(f"{left_out} points were left out: {figures.throughput_notes[0]}.")
    headings: tuple[str, ...] = ("backend", "sizes", "callers", "items/s", "calls")
    yield Section("Throughput", tuple(text), headings if body else (), body, ("throughput",) if body else ())

    spans = {each.name: starting.spans(each) for each in figures.backends}
    rows = tuple(
        (
            each.name,
            *(milliseconds(spans[each.name][part]) for part in starting.PARTS),
            milliseconds(starting.together_ms(each)),
            *map(in_units, (each.peak_bytes, each.steady_bytes, each.baseline_bytes, each.file_bytes)),
        )
        for each in figures.backends
    )
    said = (
        f"Medians over launches. Two workers start at a time; {starting.EXPLAINED}",
        "Memory is resident, over that of an idle worker.",
        f"Energy: {figures.energy.reason}." if figures.energy.reason else _joules(figures.energy),
    )
    headings = ("backend", *starting.PARTS, "together", "peak", "steady", "idle worker", "file")
    yield Section("Cold start and memory", said, headings, rows, ("cold", "memory"))


def _joules(energy: Energy) -> str:
    found = [
        f"{name} {joules:.3g} J a call at {scenario}"
        for scenario, each in energy.joules_per_call.items()
        for name, joules in each.items()
    ]
    return f"Energy of the whole package: {', '.join(found)}."


def gpu(benchmark: Benchmark) -> Iterator[Section]:
    """What host copies cost, and whether the GPU ran at its clocks, for the backends that run on one."""
    backends = benchmark.figures.backends if benchmark.figures else ()
    whole = {(row.name, in_words(size.sizes)): row.median_ms for size in benchmark.sizes for row in size.rows}
    body = tuple(
        (
            each.name,
            scenario,
            milliseconds(whole.get((each.name, scenario))),
            milliseconds(alone_ms) or "not measured",
            milliseconds(each.gpu.changed_ms.get(scenario)) or "no other size",
            _clock(each.gpu.sm_mhz, each.gpu.max_sm_mhz),
            _clock(each.gpu.memory_mhz, None),
            ", ".join(each.gpu.throttled_by) or ("unknown" if each.gpu.sm_mhz is None else "nothing"),
        )
        for each in backends
        if each.gpu
        for scenario, alone_ms in each.gpu.device_ms.items()
    )
    text = (
        "Latencies elsewhere are from host memory to host memory; without copies, inputs and outputs stay on the GPU.",
        "The first call after one of another size may look for an algorithm anew, and is in no other figure.",
        "PyTorch's calls are then timed by CUDA events, onnxruntime's by the host's clock until the GPU has done its work.",
    )
    headings = (
        "backend",
        "sizes",
        "with copies",
        "without",
        "after another size",
        "clock",
        "memory clock",
        "throttled by",
    )
    if body:
        yield Section("GPU", text, headings, body)


def _clock(now_mhz: float | None, most_mhz: float | None) -> str:
    if now_mhz is None:
        return "unknown"
    return f"{now_mhz:g} MHz" if most_mhz is None else f"{now_mhz:g} of {most_mhz:g} MHz"


def reached(figures: Figures) -> Iterator[Section]:
    """What is got out of the machine, and by which operators."""
    yield from _roofline(figures)
    if graph := figures.graph:
        body = tuple((name, str(count)) for name, count in graph.operators.items())
        text = (f"{sum(graph.operators.values())} nodes, {in_units(graph.weight_bytes)} of weights.",)
        yield Section("Operators of the ONNX graph", text, ("operator", "nodes"), body, ("operators",))


def _roofline(figures: Figures) -> Iterator[Section]:
    best, graph = figures.roofline, figures.graph
    if best.flops_per_s is None:
        return
    body = tuple(
        (
            each.name,
            scenario,
            _rate(each.flops_per_s, each.flops_per_s_share, "FLOP/s"),
            _rate(each.bytes_per_s, each.bytes_per_s_share, "B/s"),
        )
        for scenario, reached in figures.achieved.items()
        for each in reached
    )
    text = [
        f"A plain matrix product reaches {in_units(best.flops_per_s)[:-1]}FLOP/s on the processor, a plain copy {in_units(best.bytes_per_s)}/s."
    ]
    if graph is None:
        text.append("Operations are counted in an ONNX file, and there is none.")
    elif graph.uncounted:
        text.append(f"Operations could not be counted, because of {', '.join(graph.uncounted)}.")
    else:
        text.append(
            "Counted are the products of the ONNX graph; bytes are weights and inputs, the least that has to move."
        )
    yield Section("Roofline", tuple(text), ("backend", "sizes", "operations", "bytes"), body, ("roofline",))


def machine(benchmark: Benchmark) -> Iterator[Section]:
    """Yield what the figures were measured on, if anything was."""
    if benchmark.machine is None:
        return
    facts = {key.replace("_", " "): value for key, value in asdict(benchmark.machine).items()}
    if benchmark.pressure:
        during = asdict(benchmark.pressure).items()
        facts |= {f"{key.replace('_', ' ')} (during the run)": value for key, value in during}
    facts["seconds taken, of a budget of"] = f"{benchmark.elapsed_s:.1f} of {benchmark.budget_s:g}"
    body = tuple((key, _fact(value)) for key, value in facts.items())
    yield Section("Machine and versions", headings=("", ""), body=body)


def _quantile(quantile: Quantile | None) -> str:
    return "too few" if quantile is None else milliseconds(quantile.value_ms)


def _rate(rate: float | None, share: float | None, unit: str) -> str:
    if rate is None:
        return "not counted"
    return in_units(rate)[:-1] + unit + ("" if share is None else f" ({share:.1%})")


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unknown" if value is None else str(value)
