"""An OpenVINO model as the audit reads it: constants, layers and what uses what, from the file's own bytes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.format import Signature
from pipeline.formats.ledger import Constant
from pipeline.weights import files, openvino

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import Declared
    from pipeline.formats.program import Step
    from pipeline.weights.markup import Element
    from pipeline.weights.openvino import Stored

# Inputs that say which elements, axes or shape, by type: (position, …).
_SIZE_INPUTS = {
    "Reshape": (1,), "Broadcast": (1, 2), "Tile": (1,), "Range": (0, 1, 2), "Interpolate": (1, 2, 3), "Unsqueeze": (1,),
    "Squeeze": (1,), "Transpose": (1,), "Slice": (1, 2, 3, 4), "StridedSlice": (1, 2, 3), "Pad": (1, 2), "Split": (1,),
    "VariadicSplit": (1, 2), "Gather": (2,), "TopK": (1,), "CumSum": (1,), "ReduceMean": (1,), "ReduceSum": (1,),
    "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceL1": (1,), "ReduceL2": (1,), "MVN": (1,),
    "NormalizeL2": (1,), "ScatterElementsUpdate": (3,), "ScatterUpdate": (3,), "OneHot": (1,), "ReduceLogicalAnd": (1,),
    "ReduceLogicalOr": (1,), "ConvolutionBackpropData": (2,), "AdaptiveAvgPool": (1,), "AdaptiveMaxPool": (1,),
}  # fmt: skip
_SIZES = frozenset(
    {
        "ShapeOf",
        "Gather",
        "Concat",
        "Slice",
        "StridedSlice",
        "Unsqueeze",
        "Squeeze",
        "Convert",
        "Reshape",
        "Add",
        "Subtract",
    }
    | {
        "Multiply",
        "Divide",
        "Maximum",
        "Minimum",
        "Mod",
        "FloorMod",
        "Select",
        "Equal",
        "Greater",
        "Less",
        "LogicalNot",
    }
    | {"ReduceProd", "Abs", "Negative", "Floor"}
)
_TYPES = {kind: name for kind, (name, _) in openvino.TYPES.items()}
_PRECISIONS = _TYPES | {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bool": "bool"}
_ARITHMETIC = frozenset({"Add", "Subtract", "Multiply", "Divide", "Power"})


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer: what it is, its attributes, and the names that tensors have which leave it."""

    name: str
    type: str
    attributes: Mapping[str, str]
    outputs: tuple[str, ...]
    stored: Stored | None


class Graph:
    """A model's layers, those of loops and branches included, with its constants."""

    def __init__(self, root: Element, weights: Any) -> None:
        self.layers: list[Layer] = []
        self._users: dict[Layer, list[tuple[Layer, int]]] = defaultdict(list)
        self._feeding: dict[Layer, list[Layer]] = defaultdict(list)
        for net in openvino.nets(root):
            self._add(net)
        held: dict[str, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            if layer.stored is not None:
                held[layer.name].append(layer)
        # Names are unique in a net, not beyond it.
        self._holders = {
            name if len(each) == 1 else f"{name} ({index})": one
            for name, each in held.items()
            for index, one in enumerate(each)
        }
        self.constants = [
            Constant(name, _array(layer.stored, weights)) for name, layer in self._holders.items() if layer.stored
        ]
        self._sizes = self._size_layers()

    def _add(self, net: Element) -> None:
        by_id: dict[str, Layer] = {}
        ports: dict[str, list[str]] = {}
        for group in net.all("layers"):
            for element in group.all("layer"):
                made = _layer(element)
                by_id[element.attributes.get("id", "")] = made
                ports[element.attributes.get("id", "")] = [
                    port.attributes.get("id", "") for port in _ports(element, "input")
                ]
                self.layers.append(made)
        for group in net.all("edges"):
            for edge in group.all("edge"):
                source, target = (edge.attributes.get(f"{side}-layer", "") for side in ("from", "to"))
                if (
                    source in by_id
                    and target in by_id
                    and (port := edge.attributes.get("to-port", "")) in ports[target]
                ):
                    self._users[by_id[source]].append((by_id[target], ports[target].index(port)))
                    self._feeding[by_id[target]].append(by_id[source])

    def users(self, constant: Constant) -> list[tuple[Layer, int]]:
        """Return the layers that read a constant, and as which of their inputs; a cast is looked through."""
        found = []
        waiting = list(self._users.get(self._holders[constant.name], ()))
        while waiting:
            layer, position = waiting.pop()
            if layer.type == "Convert":
                waiting += self._users.get(layer, ())
            else:
                found.append((layer, position))
        return found

    def steps_of(self, constant: Constant, steps: Mapping[str, Step]) -> list[Step]:
        """Return the steps that a constant is used in, each once.

        One operator becomes several layers, of which the last has the step's name on what leaves it.
        """
        waiting = [layer for layer, _ in self.users(constant)]
        seen: set[Layer] = set()
        found: dict[str, Step] = {}
        while waiting:
            layer = waiting.pop()
            if layer in seen:
                continue
            seen.add(layer)
            named = next((name for name in layer.outputs if name in steps), None)
            if named is not None:
                found[named] = steps[named]
            else:
                waiting += [user for user, _ in self._users.get(layer, ())]
        return list(found.values())

    def orientation(self, constant: Constant, step: Step | None) -> str | None:
        """Return how a linear layer's weight must stand in the file, "equal" or "transposed"; None if that is open."""
        users = self.users(constant)
        if step is None or step.operator != "aten.linear" or len(users) != 1 or constant.value.ndim != 2:
            return None
        ((layer, position),) = users
        if layer.type != "MatMul" or position != 1:
            return None
        return "equal" if layer.attributes.get("transpose_b") in {"true", "1"} else "transposed"

    def only_sizes(self, constant: Constant) -> bool:
        """Whether a constant is only used to compute sizes, or as a shape."""
        users = self.users(constant)
        return bool(users) and all(
            layer in self._sizes or position in _SIZE_INPUTS.get(layer.type, ()) for layer, position in users
        )

    def used_by(self, constant: Constant) -> str:
        """Return the layers that use a constant, in words."""
        users = list(dict.fromkeys(f"{layer.type} {layer.name}" for layer, _ in self.users(constant)))
        return ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")

    def stands_alone_in_arithmetic(self, constant: Constant) -> bool:
        """Whether a constant is one side of one sum, product or power, and nothing else."""
        users = self.users(constant)
        return len(users) == 1 and users[0][0].type in _ARITHMETIC

    def keeps_a_root_from_zero(self, constant: Constant) -> bool:
        """Whether a constant is only added to what a square root is taken of."""
        users = self.users(constant)
        return bool(users) and all(
            layer.type == "Add" and any(each.type == "Sqrt" for each, _ in self._users.get(layer, ()))
            for layer, _ in users
        )

    def _size_layers(self) -> set[Layer]:
        """Return the layers that only compute sizes from other sizes; a file's order is that in which they run."""
        found = {layer for layer in self.layers if layer.type == "ShapeOf"}
        for layer in self.layers:
            before = self._feeding.get(layer, ())
            depends = layer.type in _SIZES and any(each in found for each in before)
            if depends and all(each in found or each.stored is not None for each in before):
                found.add(layer)
        return found


def read(path: Path) -> Graph:
    """Return the graph of an .xml with the constants of its .bin.

    Raises:
        UnsafeError, WeightsError: as `pipeline.weights.openvino.require_confined` does.
    """
    beside = openvino.require_confined(path)
    with files.mapped(path) as data:
        root = openvino.read(data, path.name)
    return Graph(root, np.memmap(beside[0], np.uint8, "r") if beside else np.zeros(0, np.uint8))


def signature(path: Path) -> Signature:
    """Return what an .xml takes and gives; raises as `read` does."""
    openvino.require_confined(path)
    with files.mapped(path) as data:
        root = openvino.read(data, path.name)
    own = [each for group in root.all("layers") for each in group.all("layer")]
    return Signature(
        tuple(_input(each) for each in own if each.attributes.get("type") == "Parameter"),
        tuple(_output(each) for each in own if each.attributes.get("type") == "Result"),
    )


def _input(layer: Element) -> Declared:
    data = layer.first("data")
    given = data.attributes if data else {}
    sizes = [each.strip() for each in given.get("shape", "").split(",") if each.strip()]
    names = [name for port in _ports(layer, "output") for name in _names(port.attributes.get("names", ""))]
    return (
        _name(names, layer),
        _TYPES.get(given.get("element_type", "")),
        tuple(int(each) if each.isdigit() else "?" for each in sizes),
    )


def _output(layer: Element) -> Declared:
    kinds = [port.attributes.get("precision", "").lower() for port in _ports(layer, "input")]
    return _name(_names(layer.attributes.get("output_names", "")), layer), _PRECISIONS.get("".join(kinds[:1])), None


def _name(names: Sequence[str], layer: Element) -> str:
    return names[0] if names else layer.attributes.get("name", "").removesuffix("/sink_port_0")


def _names(text: str) -> list[str]:
    """Return the names of a tensor; a comma that belongs to one has a backslash before it."""
    return [each.replace("\\,", ",") for each in re.split(r"(?<!\\),", text) if each]


def _layer(element: Element) -> Layer:
    data = element.first("data")
    names = [name for port in _ports(element, "output") for name in _names(port.attributes.get("names", ""))]
    return Layer(
        element.attributes.get("name", ""),
        element.attributes.get("type", ""),
        data.attributes if data else {},
        tuple(names),
        openvino.stored(element),
    )


def _ports(layer: Element, side: str) -> Iterator[Element]:
    return (port for group in layer.all(side) for port in group.all("port"))


def _array(where: Stored, weights: Any) -> Any:
    """Return a constant's values; text is nobody's weights, and what takes less than a byte is told as its bytes."""
    data = weights[where.offset : where.offset + where.size]
    name, bits = openvino.TYPES.get(where.type, ("", 0))
    if not name:
        return np.zeros(0, object)
    try:
        dtype = _dtype(name)
    except TypeError:
        return data
    return data if bits < 8 else data.view(dtype).reshape(where.shape)


def _dtype(name: str) -> Any:
    import ml_dtypes  # noqa: F401 - which tells numpy of narrow numbers

    return np.dtype(name)
