"""Which layers of a quantised file cost the most accuracy for the least time: those that are left out first.

Each product is computed exactly on what reaches it in the float32 file, and held against what that gives: the error that this layer
adds by itself. Its time is taken to be proportional to its products, rows times weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.onnx import pieces
from pipeline.formats.onnx.exact import Exact, read_whole
from pipeline.formats.onnx.products import with_products

if TYPE_CHECKING:
    import onnx

    from pipeline.formats.format import Ranking

_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose"})


def rank(wanted: Ranking) -> tuple[str, ...]:
    """Return the nodes of the float32 file that were quantised, those first that cost the most accuracy for the least time.

    Raises:
        ExportError: something in a file cannot be evaluated.
    """
    source, reduced = read_whole(wanted.source), read_whole(wanted.file)
    by_name = {node.name: node for node in source.graph.node}
    shapes = {each.name: int(np.prod(each.dims)) for each in source.graph.initializer}
    found = [(piece, node) for piece in pieces.of(reduced) if (node := _node(piece.name, by_name)) is not None]
    after = _following(source)
    names = {name for piece, node in found for name in (*piece.inputs, *after[node.output[0]])}
    known = {name for node in source.graph.node for name in node.output} | set(wanted.inputs)
    values = Exact(source).between(wanted.inputs, names & known)
    initializers = {each.name: each for each in reduced.graph.initializer}
    scores: dict[str, float] = {}
    for piece, node in found:
        if not {*piece.inputs, *after[node.output[0]]} <= values.keys():
            continue
        inputs = {name: pieces.narrow(values[name]) for name in piece.inputs}
        alone = Exact(with_products(pieces.alone(piece, reduced, initializers, inputs)))
        got = next(iter(alone(inputs).values()))
        error = min(_error(got, values[name]) for name in after[node.output[0]])
        scores[node.name] = error / max(_products(node, values[node.output[0]], shapes), 1.0)
    return tuple(sorted(scores, key=lambda name: (-scores[name], name)))


def _following(source: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Return, for each tensor, itself and what a Relu or Clip makes of it: the tools put these into the range that it is rounded to."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for node in source.graph.node for name in node.output}
    for node in source.graph.node:
        if node.op_type in {"Relu", "Clip"} and node.input[0] in found:
            found[node.input[0]] = (node.input[0], node.output[0])
    return found


def _node(name: str, by_name: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that one of a quantised file was made of: the tools call it like that, and something more."""
    fitting = [each for each in by_name if each and (name == each or name.startswith(f"{each}_"))]
    return by_name[max(fitting, key=len)] if fitting else None


def _error(got: Any, wanted: Any) -> float:
    """Return the power of the error ÷ that of the signal."""
    if got.shape != wanted.shape:
        return 0.0
    off = got - wanted
    # A bias that is added behind the product is in one of both only: it is the same in each row.
    off = off - off.mean(axis=0, keepdims=True) if off.ndim == 2 else off
    signal = float(np.sum(wanted**2))
    return float(np.sum(off**2)) / signal if signal else 0.0


def _products(node: onnx.NodeProto, output: Any, sizes: dict[str, int]) -> float:
    weights = max((sizes.get(name, 0) for name in node.input), default=0)
    channels = output.shape[1] if node.op_type in _CHANNELS_FIRST and output.ndim > 1 else (output.shape or (1,))[-1]
    return float(weights * output.size / max(int(channels), 1))
