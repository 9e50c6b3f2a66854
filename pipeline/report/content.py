"""What a report says, in order, whatever it is written in: sections of sentences and tables, made from the documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipeline.backends.placement import problems
from pipeline.formats.onnx.record import ONNX
from pipeline.interface import in_words
from pipeline.parity.document import Exported
from pipeline.report.audits import audits
from pipeline.report.section import Section
from pipeline.report.summary import HEADINGS, lines
from pipeline.report.words import factor, in_units, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.benchmark.document import Benchmark, Energy, Figures
    from pipeline.benchmark.statistics import Quantile
    from pipeline.parity.compare import Finding
    from pipeline.parity.document import BackendResult, Parity
    from pipeline.report.document import Documents


@dataclass(frozen=True, slots=True)
class Content:
    """A whole report: the verdict first."""

    name: str
    passed: bool
    headline: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]


def content(name: str, documents: Documents) -> Content:
    """Return what there is to say about a run."""
    parity, benchmark = documents.parity, documents.benchmark
    failed = [each for each in parity.backends if each.required and each.status != "pass"]
    figures = benchmark.figures
    sections = (
        Section("Summary", headings=HEADINGS, body=tuple(line.cells for line in lines(parity, benchmark))),
        *explanations(parity),
        *_latency(benchmark),
        *(_started(figures) if figures else ()),
        *_gpu(benchmark),
        findings(parity),
        *audits(parity),
        *_placement(parity),
        *(_reached(figures) if figures else ()),
        *_machine(benchmark),
        *([] if failed or parity.silent else [_how_to_run(name, parity)]),
        *_notes(parity, benchmark),
    )
    return Content(
        name,
        not failed and not parity.silent,
        "no release" if failed or parity.silent else "verified",
        tuple(_verdict(parity, benchmark, failed)),
        sections,
    )


def besides_latency(benchmark: Benchmark) -> list[Section]:
    """Return the sections on what else was measured, those with a table."""
    if benchmark.figures is None:
        return []
    found = [*_started(benchmark.figures), *_gpu(benchmark), *_roofline(benchmark.figures)]
    return [section for section in found if section.body]


def _verdict(parity: Parity, benchmark: Benchmark, failed: Sequence[BackendResult]) -> Iterator[str]:
    for name, why in parity.silent.items():
        yield f"No case would show a defect in output '{name}': {why}."
    for each in failed:
        yield f"{each.name}: {each.reason}"
    passed = [(each.worst, each.name) for each in parity.backends if each.status == "pass" and each.worst]
    if passed and not failed and not parity.silent:
        worst, backend = max(passed, key=lambda each: each[0].factor)
        yield (
            f"Every output of {len(parity.cases)} cases is within its error budget on {len(passed)} backends; the largest error "
            f"is {factor(worst.factor)} × the noise floor ({backend}), the limit {worst.limit:g}."
        )
    for size in benchmark.sizes:
        where = in_words(size.sizes)
        faster = [(row.ratio, row) for row in size.rows if row.verdict == "faster" and row.ratio is not None]
        if faster:
            ratio, row = min(faster, key=lambda each: each[0])
            yield (
                f"At {where} {row.name} takes {ratio:.2f} of the time of {size.reference} "
                f"({milliseconds(row.median_ms)} a call)."
            )
        elif not size.can_tell:
            yield f"Which backend is fastest at {where} cannot be told: {size.reason}."
        else:
            yield f"At {where} no backend is proven faster than {size.reference}."


def _latency(benchmark: Benchmark) -> Iterator[Section]:
    headings = ("backend", "verdict", "ratio", "95 % interval", "median", "p50", "p90", "p95", "p99", "calls", "why")
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
                row.reason + ("" if row.settled else "; never settled while warming up"),
            )
            for row in size.rows
        )
        text = (
            f"{size.reason}; margin {size.margin:.1%}, confidence {size.confidence:.0%}.",
            *size.measurements.notes,
            *(f"{name} dropped out: {reason}" for name, reason in size.measurements.failures.items()),
        )
        charts = (f"ratio-{index}", f"latency-{index}")
        yield Section(f"Latency, {in_words(size.sizes)}", text, headings, body, charts)


def _started(figures: Figures) -> Iterator[Section]:
    """What backends get through, how they start and what they hold."""
    body = tuple(
        (each.name, in_words(each.sizes), str(each.callers), f"{each.per_second:,.4g}", f"{each.calls:,}")
        for each in figures.throughput
    )
    text = ["Items (of the batch) a second; one short stretch each, in what the latencies left of the budget."]
    if left_out := len(figures.throughput_notes):
        text.append(f"{left_out} points were left out: {figures.throughput_notes[0]}.")
    headings: tuple[str, ...] = ("backend", "sizes", "callers", "items/s", "calls")
    yield Section("Throughput", tuple(text), headings, body, ("throughput",) if body else ())

    started = tuple(
        (
            each.name,
            *map(milliseconds, (each.start_ms, each.import_ms, each.load_ms)),
            " / ".join(map(milliseconds, each.first_call_ms.values())),
            *map(in_units, (each.peak_bytes, each.steady_bytes, each.baseline_bytes, each.file_bytes)),
        )
        for each in figures.backends
    )
    said = (
        "Medians over launches. Two workers start at a time; first calls are made alone, at each size in turn.",
        "Memory is resident, over that of an idle worker.",
        f"Energy: {figures.energy.reason}." if figures.energy.reason else _joules(figures.energy),
    )
    headings = ("backend", "process", "import", "load", "first call", "peak", "steady", "idle worker", "file")
    yield Section("Cold start and memory", said, headings, started, ("cold", "memory"))


def _joules(energy: Energy) -> str:
    found = [
        f"{name} {joules:.3g} J a call at {scenario}"
        for scenario, each in energy.joules_per_call.items()
        for name, joules in each.items()
    ]
    return f"Energy of the whole package: {', '.join(found)}."


def _gpu(benchmark: Benchmark) -> Iterator[Section]:
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


def findings(parity: Parity) -> Section:
    """Return the table of every output of every case."""
    sizes = {each.name: in_words(each.sizes) for each in parity.cases}
    body = tuple(
        (
            backend.name,
            each.output,
            each.case,
            sizes.get(each.case, ""),
            _passed(each),
            f"{factor(each.factor)} of {each.limit:g}",
            f"{each.max_error:.2e}",
            f"{each.rms_error:.2e}",
            str(list(each.worst_index)),
            "none" if each.would_pass is None else f"{each.would_pass:.2e}",
            each.problem or "",
        )
        for backend in parity.backends
        for each in backend.findings
    )
    fallback = parity.oracle.fallback
    text = (
        f"The reference is float32 eager, because float64 is not possible here: {fallback}."
        if fallback
        else "The reference is the network itself in float64; a factor is the largest error ÷ the noise floor of float32."
    )
    headings = (
        "backend",
        "output",
        "case",
        "sizes",
        "verdict",
        "factor",
        "largest error",
        "rms error",
        "at",
        "passes at atol",
        "problem",
    )
    return Section("Parity, every output of every case", (text,), headings, body, ("parity",) if body else ())


def _passed(finding: Finding) -> str:
    """Return the word for a finding, with the number of elements that float32 cannot decide."""
    said = [f"{finding.ties} ties"] if finding.ties else []
    said += ["by the accuracy of its last sigmoid or softmax"] if finding.forgiven else []
    return ("pass" if finding.passed else "FAIL") + (f" ({', '.join(said)})" if said else "")


def _placement(parity: Parity) -> Iterator[Section]:
    found = [(each.name, each.facts.placement) for each in parity.backends if each.facts.placement]
    body = tuple(
        (
            name,
            provider,
            f"{each['nodes']:,} ({each['node_share']:.0%})",
            f"{milliseconds(each['ms'])} ({each['time_share']:.0%})",
        )
        for name, placement in found
        for provider, each in placement["providers"].items()
    )
    text = ["From onnxruntime's own profile of every case; of a GPU's nodes, the time that starting them took."]
    text += [f"{name}: {said}." for name, placement in found for said in problems(placement)]
    text += [
        f"{name}: {placement['copies']} copies between devices." for name, placement in found if placement["copies"]
    ]
    if body:
        yield Section("Where nodes ran", tuple(text), ("backend", "provider", "nodes", "time"), body)


def explanations(parity: Parity) -> Iterator[Section]:
    """Yield where errors begin, if that was looked for: a sentence a backend, and how far each rung of its ladder is off."""
    text = [each.in_words() + "." for each in parity.explanations]
    text += [f"To see it alone: python {each.reproduction}" for each in parity.explanations if each.reproduction]
    body = tuple(
        (each.backend, rung.rung, "pass" if rung.passed else "FAIL", factor(rung.factor), rung.reason or "")
        for each in parity.explanations
        for rung in each.ladder
    )
    if text:
        yield Section("Where it goes wrong", tuple(text), ("backend", "rung", "verdict", "factor", "reason"), body)


def _reached(figures: Figures) -> Iterator[Section]:
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


def _machine(benchmark: Benchmark) -> Iterator[Section]:
    if benchmark.machine is None:
        return
    facts = {key.replace("_", " "): value for key, value in asdict(benchmark.machine).items()}
    if benchmark.pressure:
        during = asdict(benchmark.pressure).items()
        facts |= {f"{key.replace('_', ' ')} (during the run)": value for key, value in during}
    facts["seconds taken, of a budget of"] = f"{benchmark.elapsed_s:.1f} of {benchmark.budget_s:g}"
    body = tuple((key, _fact(value)) for key, value in facts.items())
    yield Section("Machine and versions", headings=("", ""), body=body)


def _how_to_run(name: str, parity: Parity) -> Section:
    code = f"weighbridge verify artifacts/{name}\nweighbridge predict artifacts/{name} --input input.npz"
    if any(isinstance(each, Exported) and each.format == ONNX.name for each in parity.exports):
        code += (
            "\n\n# in Python, with onnxruntime and numpy only\n"
            'import onnxruntime as ort\nsession = ort.InferenceSession("model.onnx")\nsession.run(None, {…})'
        )
    return Section("How to run it", ("With the release in artifacts/, or wherever you put it:",), code=code)


def _notes(parity: Parity, benchmark: Benchmark) -> Iterator[Section]:
    notes = [*parity.notes, *(note for each in parity.exports if isinstance(each, Exported) for note in each.notes)]
    notes += [f"{each.name}: {each.reason}" for each in parity.backends if each.reason and not each.required]
    notes += benchmark.figures.notes if benchmark.figures else ()
    if notes:
        yield Section("Notes", tuple(notes))


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
