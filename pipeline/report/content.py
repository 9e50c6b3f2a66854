"""What a report says, in order, whatever it is written in: sections of sentences and tables, made from the documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.backends.placement import problems
from pipeline.formats.onnx.record import ONNX
from pipeline.interface import in_words
from pipeline.report.rows import HEADINGS, factor, in_units, milliseconds, rows, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; `charts` name the plots that HTML shows above the table, `code` what can be run."""

    title: str
    text: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    charts: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """A whole report: the verdict first."""

    name: str
    passed: bool
    headline: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]


def content(name: str, parity: Document, benchmark: Document) -> Content:
    """Return what there is to say about a run."""
    failed = [each for each in parity["backends"] if each["required"] and each["status"] != "pass"]
    sections = (
        Section("Summary", headings=HEADINGS, body=tuple(row.cells for row in rows(parity, benchmark))),
        *_latency(benchmark),
        *_throughput(benchmark),
        *_cold(benchmark),
        *_gpu(benchmark),
        _parity(parity),
        *_placement(parity),
        *_explanations(parity),
        *_roofline(benchmark),
        *_operators(benchmark),
        *_machine(benchmark),
        *([] if failed else [_how_to_run(name, parity)]),
        *_notes(parity, benchmark),
    )
    return Content(
        name,
        not failed,
        "no release" if failed else "verified",
        tuple(_verdict(parity, benchmark, failed)),
        sections,
    )


def figures(benchmark: Document) -> list[Section]:
    """Return the sections on what was measured besides latencies, those with a table."""
    found = [*_throughput(benchmark), *_cold(benchmark), *_gpu(benchmark), *_roofline(benchmark)]
    return [section for section in found if section.body]


def _verdict(parity: Document, benchmark: Document, failed: Sequence[Document]) -> Iterator[str]:
    for each in failed:
        yield f"{each['name']}: {each['reason']}"
    passed = [each for each in parity["backends"] if each["status"] == "pass" and each["worst"]]
    if passed and not failed:
        worst = max(passed, key=lambda each: _finite(each["worst"]["factor"]))
        yield (
            f"Every output of {len(parity['cases'])} cases is within its error budget on {len(passed)} backends; the largest error "
            f"is {factor(worst['worst']['factor'])} × the noise floor ({worst['name']}), the limit {worst['worst']['limit']:g}."
        )
    for size in benchmark["sizes"]:
        best = [row for row in size["rows"] if row["verdict"] == "faster"]
        if not size["can_tell"]:
            yield f"Which backend is fastest at {in_words(size['sizes'])} cannot be told: {size['reason']}."
        elif best:
            first = min(best, key=lambda row: row["ratio"])
            yield (
                f"At {in_words(size['sizes'])} {first['name']} takes {first['ratio']:.2f} of the time of {size['reference']} "
                f"({milliseconds(first['median_ms'])} a call)."
            )
        else:
            yield f"At {in_words(size['sizes'])} no backend is proven faster than {size['reference']}."


def _latency(benchmark: Document) -> Iterator[Section]:
    headings = ("backend", "verdict", "ratio", "95 % interval", "median", "p50", "p90", "p95", "p99", "calls", "why")
    for index, size in enumerate(benchmark["sizes"]):
        body = tuple(
            (
                row["name"],
                row["verdict"],
                "" if row["ratio"] is None else f"{row['ratio']:.3f}",
                "" if row["interval"] is None else f"{row['interval'][0]:.3f} – {row['interval'][1]:.3f}",
                "" if row["median_ms"] is None else milliseconds(row["median_ms"]),
                *(_quantile(row[key]) for key in ("p50", "p90", "p95", "p99")),
                f"{row['calls']:,} in {row['launches']} launches",
                row["reason"] + ("" if row["settled"] else "; never settled while warming up"),
            )
            for row in size["rows"]
        )
        text = (
            f"{size['reason']}; margin {size['margin']:.1%}, confidence {size['confidence']:.0%}.",
            *size["samples"]["notes"],
            *(f"{name} dropped out: {reason}" for name, reason in size["samples"]["failures"].items()),
        )
        charts = (f"ratio-{index}", f"latency-{index}")
        yield Section(f"Latency, {in_words(size['sizes'])}", text, headings, body, charts)


def _throughput(benchmark: Document) -> Iterator[Section]:
    figures = benchmark.get("figures")
    if not figures:
        return
    body = tuple(
        (
            each["name"],
            in_words(each["sizes"]),
            str(each["callers"]),
            f"{each['per_second']:,.4g}",
            f"{each['calls']:,}",
        )
        for each in figures["throughput"]
    )
    text = ["Items (of the batch) a second; one short stretch each, in what the latencies left of the budget."]
    if left_out := len(figures["throughput_notes"]):
        text.append(f"{left_out} points were left out: {figures['throughput_notes'][0]}.")
    headings = ("backend", "sizes", "callers", "items/s", "calls")
    yield Section("Throughput", tuple(text), headings, body, ("throughput",) if body else ())


def _cold(benchmark: Document) -> Iterator[Section]:
    figures = benchmark.get("figures")
    if not figures:
        return
    body = tuple(
        (
            each["name"],
            *(_milliseconds(each[key]) for key in ("start_ms", "import_ms", "load_ms")),
            " / ".join(_milliseconds(value) for value in each["first_call_ms"].values()),
            *(_bytes(each[key]) for key in ("peak_bytes", "steady_bytes", "baseline_bytes", "file_bytes")),
        )
        for each in figures["backends"]
    )
    text = (
        "Medians over launches. Two workers start at a time; first calls are made alone, at each size in turn.",
        "Memory is resident, over that of an idle worker.",
        f"Energy: {figures['energy']['reason']}." if figures["energy"]["reason"] else _joules(figures["energy"]),
    )
    headings = ("backend", "process", "import", "load", "first call", "peak", "steady", "idle worker", "file")
    yield Section("Cold start and memory", text, headings, body, ("cold", "memory"))


def _joules(energy: Document) -> str:
    found = [
        f"{name} {joules:.3g} J a call at {scenario}"
        for scenario, each in energy["joules_per_call"].items()
        for name, joules in each.items()
    ]
    return f"Energy of the whole package: {', '.join(found)}."


def _gpu(benchmark: Document) -> Iterator[Section]:
    """What host copies cost, and whether the GPU ran at its clocks, for the backends that run on one."""
    backends = (benchmark.get("figures") or {}).get("backends", [])
    found = [(each["name"], each["gpu"]) for each in backends if each.get("gpu")]
    whole = {
        (row["name"], in_words(size["sizes"])): row["median_ms"] for size in benchmark["sizes"] for row in size["rows"]
    }
    body = tuple(
        (
            name,
            scenario,
            _milliseconds(whole.get((name, scenario))),
            _milliseconds(alone_ms) or "not measured",
            _clock(on["sm_mhz"], on["max_sm_mhz"]),
            _clock(on["memory_mhz"], None),
            ", ".join(on["throttled_by"]) or ("unknown" if on["sm_mhz"] is None else "nothing"),
        )
        for name, on in found
        for scenario, alone_ms in on["device_ms"].items()
    )
    text = (
        "Latencies elsewhere are from host memory to host memory; without copies, inputs and outputs stay on the GPU.",
        "PyTorch's calls are then timed by CUDA events, onnxruntime's by the host's clock until the GPU has done its work.",
    )
    headings = ("backend", "sizes", "with copies", "without", "clock", "memory clock", "throttled by")
    if body:
        yield Section("GPU", text, headings, body)


def _clock(now_mhz: float | None, most_mhz: float | None) -> str:
    if now_mhz is None:
        return "unknown"
    return f"{now_mhz:g} MHz" if most_mhz is None else f"{now_mhz:g} of {most_mhz:g} MHz"


def _parity(parity: Document) -> Section:
    sizes = {each["name"]: in_words(each["sizes"]) for each in parity["cases"]}
    body = tuple(
        (
            backend["name"],
            each["output"],
            each["case"],
            sizes.get(each["case"], ""),
            verdict(each),
            f"{factor(each['factor'])} of {each['limit']:g}",
            *(value if isinstance(value, str) else f"{value:.2e}" for value in (each["max_error"], each["rms_error"])),
            str(each["worst_index"]),
            "none" if each["would_pass"] is None else f"{each['would_pass']:.2e}",
            each["problem"] or "",
        )
        for backend in parity["backends"]
        for each in backend["findings"]
    )
    fallback = parity["oracle"]["fallback"]
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


def _placement(parity: Document) -> Iterator[Section]:
    found = [
        (each["name"], each["facts"]["placement"]) for each in parity["backends"] if each["facts"].get("placement")
    ]
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


def _explanations(parity: Document) -> Iterator[Section]:
    found = parity.get("explanations") or []
    if found:
        lines = tuple(each.get("sentence") or json.dumps(each, ensure_ascii=False) for each in found)
        yield Section("Where it goes wrong", lines)


def _roofline(benchmark: Document) -> Iterator[Section]:
    figures = benchmark.get("figures")
    if not figures or not figures["roofline"]:
        return
    best = figures["roofline"]
    body = tuple(
        (
            each["name"],
            scenario,
            *(_rate(each, key, unit) for key, unit in (("flops_per_s", "FLOP/s"), ("bytes_per_s", "B/s"))),
        )
        for scenario, rows_ in figures["achieved"].items()
        for each in rows_
    )
    text = [
        f"A plain matrix product reaches {in_units(best['flops_per_s'])[:-1]}FLOP/s here, a plain copy {in_units(best['bytes_per_s'])}/s."
    ]
    graph = figures["graph"]
    if graph is None:
        text.append("Operations are counted in an ONNX file, and there is none.")
    elif graph["uncounted"]:
        text.append(f"Operations could not be counted, because of {', '.join(graph['uncounted'])}.")
    else:
        text.append(
            "Counted are the products of the ONNX graph; bytes are weights and inputs, the least that has to move."
        )
    yield Section("Roofline", tuple(text), ("backend", "sizes", "operations", "bytes"), body, ("roofline",))


def _operators(benchmark: Document) -> Iterator[Section]:
    graph = (benchmark.get("figures") or {}).get("graph")
    if graph:
        body = tuple((name, str(count)) for name, count in graph["operators"].items())
        text = (f"{sum(graph['operators'].values())} nodes, {in_units(graph['weight_bytes'])} of weights.",)
        yield Section("Operators of the ONNX graph", text, ("operator", "nodes"), body, ("operators",))


def _machine(benchmark: Document) -> Iterator[Section]:
    if not benchmark.get("machine"):
        return
    facts = {
        **{key.replace("_", " "): value for key, value in benchmark["machine"].items()},
        **{f"{key.replace('_', ' ')} (during the run)": value for key, value in benchmark["pressure"].items()},
    }
    if "elapsed_s" in benchmark:
        facts["seconds taken, of a budget of"] = f"{benchmark['elapsed_s']:.1f} of {benchmark['budget_s']:g}"
    body = tuple((key, _fact(value)) for key, value in facts.items())
    yield Section("Machine and versions", headings=("", ""), body=body)


def _how_to_run(name: str, parity: Document) -> Section:
    files = [each.get("format") for each in parity["exports"] if each["status"] == "exported"]
    code = f"weighbridge verify artifacts/{name}\nweighbridge predict artifacts/{name} --input input.npz"
    if ONNX.name in files:
        code += (
            "\n\n# in Python, with onnxruntime and numpy only\n"
            'import onnxruntime as ort\nsession = ort.InferenceSession("model.onnx")\nsession.run(None, {…})'
        )
    return Section("How to run it", ("With the release in artifacts/, or wherever you put it:",), code=code)


def _notes(parity: Document, benchmark: Document) -> Iterator[Section]:
    notes = [*parity["notes"], *(note for each in parity["exports"] for note in each.get("notes", []))]
    notes += [
        f"{each['name']}: {each['reason']}" for each in parity["backends"] if each["reason"] and not each["required"]
    ]
    notes += (benchmark.get("figures") or {}).get("notes", [])
    if notes:
        yield Section("Notes", tuple(notes))


def _finite(value: float | str) -> float:
    return value if isinstance(value, int | float) else float("inf")


def _quantile(quantile: Document | None) -> str:
    return "too few" if quantile is None else milliseconds(quantile["value_ms"])


def _milliseconds(value: float | None) -> str:
    return "" if value is None else milliseconds(value)


def _bytes(value: float | None) -> str:
    return "" if value is None else in_units(value)


def _rate(achieved: Document, key: str, unit: str) -> str:
    rate, share = achieved[key], achieved[f"{key}_share"]
    if rate is None:
        return "not counted"
    return in_units(rate)[:-1] + unit + ("" if share is None else f" ({share:.1%})")


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unknown" if value is None else str(value)
