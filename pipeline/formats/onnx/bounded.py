"""A file without its last sigmoids and softmaxes: what enters these can be held against the network where their own outputs cannot."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.weights import confined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

_BOUNDED = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
# What does no more to a value than pipeline.parity.steps knows of the operators that it comes from.
_SIMPLE = frozenset(
    {
        "Abs", "Add", "AveragePool", "Cast", "Concat", "CumSum", "Div", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "GlobalAveragePool", "Identity", "MaxPool", "Mul", "Neg", "Pow", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Resize",
        "Slice", "Split", "Squeeze", "Sub", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip


def without(path: Path, outputs: Sequence[str], folder: Path) -> Path:
    """Write the file again into `folder`, each sigmoid and softmax that outputs end in giving back what enters it; return it.

    Raises:
        InputError: none of these outputs ends in one.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    made_by = {name: node for node in model.graph.node for name in node.output}
    last = [node for name in outputs for node in _last(name, made_by)]
    if not last:
        raise InputError(f"{path.name} has no Sigmoid or Softmax that {', '.join(outputs)} ends in")
    for node in last:
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        del node.input[1:]
    for beside in confined.require_confined_onnx(path):
        shutil.copy2(beside, folder / beside.name)
    target = folder / path.name
    onnx.save(model, str(target))
    return target


def _last(output: str, made_by: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    waiting, seen = [output], {output}
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in _BOUNDED:
            yield node
        elif node.op_type in _SIMPLE:
            fresh = {*node.input} - seen
            seen |= fresh
            waiting += sorted(fresh)
