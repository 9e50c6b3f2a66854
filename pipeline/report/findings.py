"""The table of `weighbridge parity`: every output of every case, and where an error begins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.backends import placement
from pipeline.parity import explain, prove
from pipeline.report.rows import factor, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADINGS = ("backend", "output", "case", "verdict", "factor", "max error", "rms error", "at", "passes at atol")


def print_parity(document: Mapping[str, Any]) -> None:
    """Print parity.json to stdout."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 240)
    sizes = {each["name"]: each["sizes"] for each in document["cases"]}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in _HEADINGS:
        table.add_column(heading)
    for backend in document["backends"]:
        for each in backend["findings"]:
            shown = ", ".join(f"{name}={size}" for name, size in sizes.get(each["case"], {}).items())
            table.add_row(
                backend["name"],
                Text(each["output"]),
                Text(f"{each['case']}: {shown}" if shown else each["case"]),
                Text(verdict(each), "green" if each["passed"] else "bold red"),
                f"{factor(each['factor'])} of {each['limit']:g}",
                _scientific(each["max_error"]),
                _scientific(each["rms_error"]),
                Text(str(each["worst_index"])),
                "none" if each["would_pass"] is None else _scientific(each["would_pass"]),
            )
    console.print(table)
    for line in lines(document):
        console.print(Text(line))


def lines(document: Mapping[str, Any]) -> list[str]:
    """Return what the table cannot say: how a candidate was matched, the audits, reasons, where nodes ran, and culprits."""
    said = []
    if reason := document["oracle"]["fallback"]:
        said.append(f"the reference is float32 eager, because float64 is not possible here: {reason}")
    if candidate := document.get("candidate"):
        said.append(f"candidate {candidate['file']}: {candidate['format']}, {candidate['matched']}")
    for export in document["exports"]:
        if audit := export.get("audit"):
            said.append(
                f"audit of {export['format']}: {'ok' if audit['passed'] else 'FAILED'}: {prove.describe_audit(audit)}"
            )
            said += [f"  {each['where']} {each['problem']}" for each in audit["problems"][1:]]
    said += [f"{each['name']}: {each['status']}: {each['reason']}" for each in document["backends"] if each["reason"]]
    said += [
        f"{each['name']} ran on {placement.describe(each['facts']['placement'])}"
        for each in document["backends"]
        if each["facts"].get("placement")
    ]
    for each in document.get("explanations", []):
        said.append(explain.sentence(each))
        said += [
            f"  {'pass' if rung['passed'] else 'FAIL'}  {rung['rung']}"
            + (f"  {factor(rung['factor'])}" if rung["factor"] is not None else "")
            for rung in each["ladder"]
        ]
        if each.get("reproduction"):
            said.append(f"  see it alone: python {each['reproduction']}")
    return said


def _scientific(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
