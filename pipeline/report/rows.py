"""The table every report shows: stage, backend, verdict, factor, latency, size — one row each, as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.interface import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADINGS = ("stage", "backend", "verdict", "× noise floor", "latency", "size")
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `tone` is good, bad or neutral."""

    stage: str
    backend: str
    verdict: str
    factor: str = ""
    latency: str = ""
    size: str = ""
    tone: str = "neutral"

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells in the order of `HEADINGS`."""
        return (self.stage, self.backend, self.verdict, self.factor, self.latency, self.size)


def rows(parity: Mapping[str, Any], benchmark: Mapping[str, Any]) -> list[Row]:
    """Return the table of a run from its two documents."""
    return [*_trained(parity), *_exports(parity), *_backends(parity), *_timings(benchmark)]


def in_units(size_bytes: float) -> str:
    """Return a number of bytes with a unit, powers of 1000."""
    for unit in _UNITS:
        if size_bytes < 1000 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    raise AssertionError


def milliseconds(value: float) -> str:
    """Return a duration in ms with three digits, in µs below 0.1 ms, in s from a second on."""
    if value >= 1000:
        return f"{value / 1e3:.3g} s"
    return f"{value * 1e3:.3g} µs" if value < 0.1 else f"{value:.3g} ms"


def factor(value: float | str) -> str:
    """Return a factor with three digits; what is no number was not measurable in these terms."""
    return f"{value:.3g}" if isinstance(value, int | float) else "∞"


def verdict(finding: Mapping[str, Any]) -> str:
    """Return the word for a finding, with the number of elements that float32 cannot decide."""
    ties = f" ({finding['ties']} ties)" if finding["ties"] else ""
    return ("pass" if finding["passed"] else "FAIL") + ties


def _trained(parity: Mapping[str, Any]) -> Iterator[Row]:
    """Yield whether the network was held against the one that was trained; older reports do not say."""
    if "reference" not in parity:
        return
    found = parity["reference"]
    if found is None:
        yield Row("network", "eager", "not compared with the trained network")
    else:
        calls = f"the trained network's, {found['calls']} call{'s' if found['calls'] > 1 else ''}"
        yield Row("network", "eager", calls, factor(found["factor"]), tone="good")


def _exports(parity: Mapping[str, Any]) -> Iterator[Row]:
    for each in parity["exports"]:
        artifact = each.get("name") or each["format"]
        if each["status"] == "exported":
            facts = each["facts"]
            how = facts.get("method") or f"opset {facts.get('opset')}"
            yield Row("export", artifact, how, size=in_units(each["size_bytes"]), tone="good")
            if audit := each.get("audit"):
                yield _audit(artifact, audit)
        else:
            yield Row("export", artifact, "refused", tone="bad")


def _audit(name: str, audit: Mapping[str, Any]) -> Row:
    if not audit["passed"]:
        return Row("audit", name, f"{audit['problem_count']} problems", tone="bad")
    if left := audit["unaccounted_count"]:
        return Row("audit", name, f"{left} not accounted for ({audit['share']:.2%})", tone="neutral")
    return Row("audit", name, f"all of {audit['elements']:,} elements", tone="good")


def _backends(parity: Mapping[str, Any]) -> Iterator[Row]:
    tones = {"pass": "good", "unavailable": "neutral"}
    for each in parity["backends"]:
        shown = factor(each["worst"]["factor"]) if each["worst"] else ""
        yield Row("parity", each["name"], each["status"], shown, tone=tones.get(each["status"], "bad"))


def _timings(benchmark: Mapping[str, Any]) -> Iterator[Row]:
    for each in benchmark["sizes"]:
        for row in each["rows"]:
            if row["name"] != each["control"]:
                yield Row(
                    in_words(each["sizes"]) if each["sizes"] else "benchmark",
                    row["name"],
                    _verdict(row),
                    latency=_latency(row),
                )


def _verdict(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None or row["interval"] is None:
        return str(row["verdict"])
    low, high = row["interval"]
    return f"{row['verdict']} {row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _latency(row: Mapping[str, Any]) -> str:
    if row["median_ms"] is None:
        return ""
    if row["median_interval_ms"] is None:
        return milliseconds(row["median_ms"])
    low, high = row["median_interval_ms"]
    scale, unit = (1e3, "µs") if row["median_ms"] < 0.1 else (1.0, "ms")
    return f"{row['median_ms'] * scale:.3g} [{low * scale:.3g}, {high * scale:.3g}] {unit}"
