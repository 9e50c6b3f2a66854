"""An ONNX graph as the audit and the search for a culprit read it: constants, nodes, and where each comes from."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import InputError
from pipeline.formats.format import Signature
from pipeline.formats.ledger import Constant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from pipeline.formats.format import Declared
    from pipeline.formats.program import Step

_SIZES = frozenset(
    {"Shape", "Size", "Gather", "Concat", "Slice", "Unsqueeze", "Squeeze", "Cast", "Add", "Sub", "Mul", "Div"}
    | {"Abs", "Neg", "Max", "Min", "Mod", "Where", "Equal", "Greater", "Less", "Not", "Identity", "ReduceProd"}
)
_SCOPES = "pkg.torch.onnx.name_scopes"
# Inputs that say which elements or which shape, by operator: (position, …).
_SIZE_INPUTS = {
    "Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Tile": (1,), "Resize": (2, 3), "Range": (0, 1, 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its names; `proto` is onnx's own."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scopes: tuple[str, ...]
    proto: Any


class Graph:
    """A model's nodes, in order, those of subgraphs and functions included, with its constants."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.model = model
        self.opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 1)
        self.nodes = [_node(each) for each in _all_nodes(model)]
        self.constants = list(_constants(model, str(folder) if folder else ""))
        self.made_by = {output: node for node in self.nodes for output in node.outputs}
        self.users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.users.setdefault(name, []).append(node)
        self._outputs = {each.name for each in model.graph.output}
        self._constant_names = {each.name for each in self.constants}
        self._sizes = self._size_values()

    def step_of_node(self, node: Node, steps: Mapping[str, Step]) -> Step | None:
        """Return the step of the program that a node was made from: by its scopes, by its output's name, or None.

        What the config calls an output is a step's name only by chance.
        """
        for name in (*node.scopes[-1:], *(each for each in node.outputs if each not in self._outputs)):
            if name in steps:
                return steps[name]
        return None

    def steps_of(self, constant: Constant, steps: Mapping[str, Step]) -> list[Step]:
        """Return the steps that a constant is used in, each once."""
        users = self.users.get(constant.name, ())
        found = {step.name: step for user in users if (step := self.step_of_node(user, steps))}
        return list(found.values())

    def orientation(self, constant: Constant, step: Step | None) -> str | None:
        """Return how a linear layer's weight must stand in the file, "equal" or "transposed"; None if that is open."""
        users = self.users.get(constant.name, ())
        if step is None or step.operator != "aten.linear" or len(users) != 1 or constant.value.ndim != 2:
            return None
        (user,) = users
        if constant.name not in user.inputs[1:2]:
            return None
        if user.operator == "Gemm":
            return "equal" if self.numeric_attributes(user).get("transB") else "transposed"
        return "transposed" if user.operator == "MatMul" else None

    def numeric_attributes(self, node: Node) -> dict[str, Any]:
        """Return a node's attributes that are numbers, lists of integers, or a choice by name."""
        import onnx

        if node.operator == "Constant":
            return {}
        kinds = onnx.AttributeProto
        plain = {kinds.FLOAT, kinds.INT, kinds.INTS, kinds.FLOATS, kinds.STRING}
        found = {each.name: each for each in node.proto.attribute if each.type in plain}
        values = {name: onnx.helper.get_attribute_value(each) for name, each in found.items()}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()} | {
            name: value for name, value in self._left_out(node).items() if name not in values
        }

    def default(self, operator: str, name: str) -> Any:
        """Return the specification's default of an attribute, None if it has none."""
        return _defaults(operator, self.opset).get(name)

    def is_size_arithmetic(self, node: Node) -> bool:
        """Whether a node only computes sizes from other sizes."""
        return all(output in self._sizes for output in node.outputs)

    def only_sizes(self, constant: Constant) -> bool:
        """Whether a constant is only used to compute sizes, or as a shape."""
        users = self.users.get(constant.name, ())
        return bool(users) and all(
            self.is_size_arithmetic(user)
            or all(
                index in _SIZE_INPUTS.get(user.operator, ())
                for index, name in enumerate(user.inputs)
                if name == constant.name
            )
            for user in users
        )

    def used_by(self, constant: Constant) -> str:
        """Return the operators that use a constant, in words."""
        users = dict.fromkeys(f"{user.operator} {user.name}" for user in self.users.get(constant.name, ()))
        return ", ".join(list(users)[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")

    def stands_alone_in_arithmetic(self, constant: Constant) -> bool:
        """Whether a constant is one side of one sum, product or power, and nothing else."""
        users = self.users.get(constant.name, ())
        return len(users) == 1 and users[0].operator in {"Add", "Sub", "Mul", "Div", "Pow"}

    def keeps_a_root_from_zero(self, constant: Constant) -> bool:
        """Whether a constant is only added to what a square root is taken of."""
        users = self.users.get(constant.name, ())
        return bool(users) and all(
            user.operator == "Add"
            and any(each.operator in {"Sqrt", "Rsqrt"} for each in self.users.get(user.outputs[0], ()))
            for user in users
        )

    def rank(self, step: Step | None, node: Node) -> int | None:
        """Return the rank of the tensor whose axes a node counts, as far as the program knows it."""
        del node
        if step is None:
            return None
        grown = int(step.operator == "aten.stack")
        shapes = [step.shapes[name] for name in ("self", "input") if name in step.shapes] or [step.shapes.get("", [])]
        return len(shapes[0]) + (grown if shapes[0] is not step.shapes.get("") else 0) or None

    def _left_out(self, node: Node) -> dict[str, Any]:
        """Return the defaults that a node leaves unsaid: an epsilon that is missing is one of 1e-5."""
        wanted = {"epsilon", "alpha", "axis", "approximate", "group"}
        return {name: value for name, value in _defaults(node.operator, self.opset).items() if name in wanted}

    def _size_values(self) -> set[str]:
        sizes = {output for node in self.nodes if node.operator in {"Shape", "Size"} for output in node.outputs}
        for node in self.nodes:
            inputs = [name for name in node.inputs if name]
            depends = node.operator in _SIZES and any(name in sizes for name in inputs)
            if depends and all(name in sizes or name in self._constant_names for name in inputs):
                sizes.update(node.outputs)
        return sizes


def read(path: Path, *, whole: bool = False) -> Graph:
    """Return a graph with its constants; external data must lie beside it. `whole`: its model holds them as well.

    Raises:
        InputError: it is no valid ONNX model, or its weights are missing or elsewhere.
    """
    from importlib import import_module

    import onnx

    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        onnx.checker.check_model(str(path))
        return Graph(onnx.load(str(path), load_external_data=whole), path.parent)
    except (onnx.checker.ValidationError, decode_error, ValueError, OSError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{path.name} is not a valid ONNX model: {first}",
            hint="export it again where it was made: onnx.checker refuses it",
        ) from None


def signature(path: Path) -> Signature:
    """Return what an ONNX file takes and gives.

    Raises:
        InputError: it is no valid ONNX model.
    """
    graph = read(path).model.graph
    constants = {each.name for each in graph.initializer}
    return Signature(
        tuple(_declared(each) for each in graph.input if each.name not in constants),
        tuple(_declared(each) for each in graph.output),
    )


def _declared(value: Any) -> Declared:
    import onnx

    tensor = value.type.tensor_type
    sizes = tuple(each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return value.name, dtype, sizes if tensor.HasField("shape") else None


@cache
def _defaults(operator: str, opset: int) -> dict[str, Any]:
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return {}
    found = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def _node(proto: Any) -> Node:
    scopes = next((each.value for each in proto.metadata_props if each.key == _SCOPES), "[]")
    return Node(
        proto.name or "|".join(proto.output),
        proto.op_type,
        tuple(proto.input),
        tuple(proto.output),
        _listed(scopes),
        proto,
    )


def _listed(text: str) -> tuple[str, ...]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _all_nodes(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions):
        yield from _nodes(graph)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _nodes(inner)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _graphs(inner)


def _constants(model: Any, folder: str) -> Iterator[Constant]:
    for graph in _graphs(model.graph):
        for initializer in graph.initializer:
            yield Constant(initializer.name, _array(initializer, folder))
    for node in _all_nodes(model):
        if node.op_type == "Constant":
            value = _value(node.attribute[0], folder)
            if value is not None:
                yield Constant(node.output[0], value)


def _array(tensor: Any, folder: str) -> Any:
    """Return a tensor's values; those in another file are mapped, as onnx would keep a second copy of them in the model."""
    from onnx import external_data_helper, helper, numpy_helper

    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    where = external_data_helper.ExternalDataInfo(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if dtype.itemsize * math.prod(tensor.dims) != (
        where.length or 0
    ):  # packed into less than a byte, or of no stated length
        return numpy_helper.to_array(tensor, folder)
    return np.memmap(Path(folder, where.location), dtype, "r", where.offset or 0, tuple(tensor.dims))


def _value(attribute: Any, folder: str) -> Any:
    from onnx import helper

    if attribute.name == "value":
        return _array(attribute.t, folder)
    if attribute.name in {"value_float", "value_floats"}:
        return np.asarray(helper.get_attribute_value(attribute), np.float32)
    if attribute.name in {"value_int", "value_ints"}:
        return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None
