"""What an ONNX graph asks of a machine: its operators, and the floating-point operations of one call.

Counted are the products: convolutions, matrix products and recurrent layers, two operations for each multiplication and
addition. Everything else is linear in the activations, and left out. Runs in a worker, as it needs onnx.
Source of the shapes: the ONNX operator specification.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    Shape = tuple[int, ...]

_SMALL = 1024  # elements; shapes are computed from constants no larger than this


def count(file: Path, inputs: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Return the graph's `operators`, the bytes of its `weights`, and the `flops` of a call in each scenario.

    `inputs` maps each scenario to its inputs' shapes. `flops` is None where a product's shape is not known before it runs;
    `uncounted` names such operators.
    """
    import onnx

    model = onnx.load(file, load_external_data=False)
    weight_bytes = sum(_bytes(each) for each in model.graph.initializer)
    _drop_values(model)
    flops: dict[str, int | None] = {}
    uncounted: set[str] = set()
    for scenario, shapes in inputs.items():
        known = _shapes(model, shapes)
        counts = [(node.op_type, _flops(node, known)) for node in model.graph.node if node.op_type in _COUNTED]
        uncounted |= {kind for kind, found in counts if found is None}
        uncounted |= {node.op_type for node in model.graph.node if node.op_type in _UNCOUNTED or _has_body(node)}
        flops[scenario] = None if uncounted else sum(found or 0 for _, found in counts)
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "operators": dict(operators.most_common()),
        "weight_bytes": weight_bytes,
        "flops": flops,
        "uncounted": sorted(uncounted),
    }


def _bytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    itemsize: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims)) * itemsize


def _drop_values(model: onnx.ModelProto) -> None:
    """Make large weights inputs, so that inferring shapes does not carry them along."""
    from onnx import helper

    large = [each for each in model.graph.initializer if math.prod(each.dims) > _SMALL]
    for tensor in large:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        model.graph.initializer.remove(tensor)
    del model.graph.value_info[:]


def _shapes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Return the shape of every value whose shape follows from those of the inputs."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            axis.dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    known = _inferred(fixed)
    while _fold_shapes(fixed, known):
        known = _inferred(fixed)
    return known


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(axis.HasField("dim_value") for axis in kind.shape.dim):
            known[value.name] = tuple(axis.dim_value for axis in kind.shape.dim)
    return known


def _fold_shapes(model: onnx.ModelProto, known: Mapping[str, Shape]) -> bool:
    """Replace `Shape` of a known shape by a constant, because inference only sees the ends of a `Slice` in constants."""
    import numpy as np
    from onnx import numpy_helper

    folded = [node for node in model.graph.node if node.op_type == "Shape" and node.input[0] in known]
    for node in folded:
        ends = {each.name: each.i for each in node.attribute}
        shape = known[node.input[0]][ends.get("start", 0) : ends.get("end")]
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), node.output[0]))
        model.graph.node.remove(node)
    return bool(folded)


def _flops(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    try:
        return _COUNTED[node.op_type](node, known)
    except KeyError:
        return None


def _convolution(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return 2 * math.prod(known[node.output[0]]) * math.prod(known[node.input[1]][1:])


def _transposed(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return 2 * math.prod(known[node.input[0]]) * math.prod(known[node.input[1]][1:])


def _matmul(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return 2 * math.prod(known[node.output[0]]) * known[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return 2 * math.prod(known[node.output[0]]) * known[node.input[0]][0 if transposed else 1]


def _recurrent(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    steps, batch, _ = known[node.input[0]]
    return 2 * steps * batch * (math.prod(known[node.input[1]]) + math.prod(known[node.input[2]]))


def _has_body(node: onnx.NodeProto) -> bool:
    return any(each.HasField("g") for each in node.attribute)


_COUNTED: dict[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
_UNCOUNTED = {"Attention", "DFT", "DeformConv", "Einsum", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
