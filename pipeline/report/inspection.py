"""What `weighbridge inspect` prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pipeline.report.rows import in_units

if TYPE_CHECKING:
    from pipeline.checkpoint.inspect import Description, TensorDescription

_SHOWN_TENSORS = 400


def print_description(description: Description) -> None:
    """Print what a file is, the tree of what it holds, and what to do next."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(Text(f"{description.name}: {description.kind}, {in_units(description.size_bytes)}", style="bold"))
    console.print(Text(description.explanation))
    for label, value in _facts(description):
        console.print(Text(f"{label}: {value}"))
    if description.tensors:
        console.print(_tree(description))
    for step in description.next:
        console.print(Text(f"next: {step}", style="cyan"))


def _facts(description: Description) -> list[tuple[str, str]]:
    facts = [
        ("likely", description.likely or ""),
        ("state dict under", description.wrapper or ""),
        ("beside it", ", ".join(description.beside)),
        ("loading it would import", ", ".join(description.needs)),
        ("tied", "; ".join(" = ".join(group) for group in description.tied)),
        *((key, str(value)) for key, value in description.details.items()),
    ]
    return [(label, value) for label, value in facts if value]


def _tree(description: Description) -> Tree:
    """Return the tensors as a tree of the modules their names spell."""
    count = len(description.tensors)
    title = f"{count} tensors, {description.elements:,} elements, {in_units(description.tensor_bytes)}"
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
