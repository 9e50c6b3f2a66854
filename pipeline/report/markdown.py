"""The report as Markdown, for a job summary or a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.report.rows import HEADINGS, factor, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


def render(name: str, parity: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """Return the report of a run from its two documents."""
    return "\n".join(_lines(name, parity, benchmark)) + "\n"


def table(headings: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *body]
    return ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]


def _lines(name: str, parity: Mapping[str, Any], benchmark: Mapping[str, Any]) -> Iterator[str]:
    failed = [each for each in parity["backends"] if each["required"] and each["status"] != "pass"]
    yield f"# {name}: {'no release' if failed else 'verified'}"
    yield ""
    for each in failed:
        yield f"**{each['name']}**: {each['reason']}"
        yield ""
    yield from table(HEADINGS, (row.cells for row in rows(parity, benchmark)))
    yield from _oracle(parity)
    yield from _findings(parity)
    yield from _benchmark(benchmark)
    yield from _notes(parity)


def _oracle(parity: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    if fallback := parity["oracle"]["fallback"]:
        yield f"The reference is float32 eager, because float64 is not possible here: {fallback}."
    else:
        yield "The reference is the network itself in float64; a factor is the largest error ÷ the noise floor of float32."


def _findings(parity: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Parity, every output of every case"
    yield ""
    sizes = {each["name"]: each["sizes"] for each in parity["cases"]}
    body = [
        (
            backend["name"],
            each["output"],
            each["case"],
            ", ".join(f"{key}={size}" for key, size in sizes.get(each["case"], {}).items()),
            "pass" if each["passed"] else "FAIL",
            f"{factor(each['factor'])} of {each['limit']:g}",
            _scientific(each["max_error"]),
            str(each["worst_index"]),
            each["problem"] or "",
        )
        for backend in parity["backends"]
        for each in backend["findings"]
    ]
    yield from table(
        ("backend", "output", "case", "sizes", "verdict", "factor", "largest error", "at", "problem"), body
    )


def _benchmark(benchmark: Mapping[str, Any]) -> Iterator[str]:
    for each in benchmark["sizes"]:
        yield ""
        yield f"## Latency, {', '.join(f'{name}={size}' for name, size in each['sizes'].items()) or 'fixed sizes'}"
        yield ""
        yield f"{each['reason']}; margin {each['margin']:.1%}, confidence {each['confidence']:.0%}."
        yield ""
        body = [
            (
                row["name"],
                row["verdict"],
                "" if row["ratio"] is None else f"{row['ratio']:.3f}",
                "" if row["interval"] is None else f"{row['interval'][0]:.3f} – {row['interval'][1]:.3f}",
                *(_quantile(row[name]) for name in ("p50", "p90", "p95", "p99")),
                f"{row['calls']:,} in {row['launches']} launches",
            )
            for row in each["rows"]
        ]
        headings = ("backend", "verdict", "ratio", "95 % interval", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "calls")
        yield from table(headings, body)


def _notes(parity: Mapping[str, Any]) -> Iterator[str]:
    notes = [*parity["notes"], *(note for each in parity["exports"] for note in each.get("notes", []))]
    others = [
        f"{each['name']}: {each['reason']}" for each in parity["backends"] if each["reason"] and not each["required"]
    ]
    if notes or others:
        yield ""
        yield "## Notes"
        yield ""
        yield from (f"- {note}" for note in [*notes, *others])


def _quantile(quantile: Mapping[str, float] | None) -> str:
    return "too few" if quantile is None else f"{quantile['value_ms']:.3g}"


def _scientific(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2e}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
