"""What `weighbridge inspect` prints."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pipeline.report.words import in_units
from pipeline.weights.values import survey
from pipeline.weights.wrappers import printable
from pipeline.worker.job import Context, Request
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.weights.beside import Held
    from pipeline.weights.inspect import Candidate, Description, TensorDescription

READ_TIMEOUT_S = 600.0
_SHOWN_TENSORS = 400
_SHOWN_CANDIDATES = 20
_SHOWN_OBJECTS = 20


class SurveyValues(Request[dict[str, dict[str, JsonValue]]]):
    """Return what is odd about the numbers of a state dict (see `pipeline.weights.values`)."""

    weights: Path
    key: str | None
    max_bytes: int | None

    def run(self, _: Context) -> dict[str, dict[str, JsonValue]]:
        """Load it, and look at every tensor."""
        return survey(self.weights, self.key, self.max_bytes)


def print_description(description: Description) -> None:
    """Print what a file is, the tree of what it holds, and what to do next."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    what = ", ".join([description.kind, *description.traits, in_units(description.size_bytes)])
    console.print(Text(f"{description.name}: {what}", style="bold"))
    console.print(Text(description.explanation))
    for label, value in _facts(description):
        console.print(Text(f"{label}: {value}"))
    for line in _objects(description.held):
        console.print(Text(line))
    if description.tensors:
        console.print(_tree(description, ""))
    for candidate in description.candidates[:_SHOWN_CANDIDATES]:
        console.print(_tree(candidate, f"{printable(candidate.key)}: "))
        if candidate.relation:
            console.print(Text(f"it has {candidate.relation}"))
        if candidate.likely:
            console.print(Text(f"likely: {candidate.likely}"))
    if len(description.candidates) > _SHOWN_CANDIDATES:
        console.print(Text(f"… and {len(description.candidates) - _SHOWN_CANDIDATES} more (--json lists all)"))
    for step in description.next:
        label = "next" if step.startswith("weighbridge ") else "to do"  # what stands behind `next:` can be pasted
        console.print(Text(f"{label}: {step}", style="cyan"), soft_wrap=True)


def _objects(held: Sequence[Held]) -> list[str]:
    if not held:
        return []
    lines = [f"  {each.place}: {each.kind}: {each.shown}" for each in held[:_SHOWN_OBJECTS]]
    more = [f"  … and {len(held) - _SHOWN_OBJECTS} more (--json lists them)"] if len(held) > _SHOWN_OBJECTS else []
    return ["objects beside the tensors, read as data and never made:", *lines, *more]


def with_values(description: Description, path: Path, key: str | None, max_bytes: int | None) -> Description:
    """Return `description` with what the weights' numbers are like, read in a worker; raises as loading does."""
    with LOCAL.start(f"reading {path.name}", threads=1) as worker:
        values = worker.call(SurveyValues(weights=path, key=key, max_bytes=max_bytes), timeout_s=READ_TIMEOUT_S)
    return replace(description, values=values)


def _facts(description: Description) -> list[tuple[str, str]]:
    facts = [
        ("likely", description.likely or ""),
        ("state dict under", description.wrapper or ""),
        ("beside it", ", ".join(description.beside)),
        ("not a state dict", "; ".join(description.unnamed)),
        ("loading it would import", ", ".join(description.needs)),
        ("tied", "; ".join(" = ".join(group) for group in description.tied)),
        ("holds", _listed(description.contents)),
        ("values", _oddities(description)),
        ("weights alone saved to", description.saved or ""),
        *((key, str(value)) for key, value in description.details.items()),
    ]
    return [(label, value) for label, value in facts if value]


def _listed(names: Sequence[str], limit: int = 20) -> str:
    more = f" … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name)[1:-1] for name in names[:limit]) + more


def _oddities(description: Description) -> str:
    if description.values is None:
        return ""
    found = [
        f"{name}: {', '.join(f'{what} {count}' for what, count in oddities.items())}"
        for name, oddities in description.values.items()
    ]
    return _listed(found) or "all finite, none constant"


def _tree(description: Description | Candidate, label: str) -> Tree:
    """Return the tensors as a tree of the modules their names spell."""
    count = len(description.tensors)
    title = f"{label}{count} tensors, {description.elements:,} elements, {in_units(description.tensor_bytes)}"
    root = Tree(Text(title), guide_style="dim")
    branches: dict[str, Tree] = {"": root}
    for tensor in description.tensors[:_SHOWN_TENSORS]:
        parent = ""
        for part in tensor.name.split(".")[:-1]:
            path = f"{parent}.{part}" if parent else part
            if path not in branches:
                branches[path] = branches[parent].add(Text(part))
            parent = path
        branches[parent].add(_leaf(tensor))
    if count > _SHOWN_TENSORS:
        root.add(Text(f"… and {count - _SHOWN_TENSORS} more (--json lists all)"))
    return root


def _leaf(tensor: TensorDescription) -> Text:
    name = tensor.name.rpartition(".")[2]
    return Text(f"{name}  {tensor.dtype} {list(tensor.shape)}  {in_units(tensor.nbytes)}")
