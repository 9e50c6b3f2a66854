"""The constants of a quantised file: what whole numbers, scales and zero points stand for, and which weight of the network that is.

A weight was rounded to the nearest of its steps, so that it lies within half a step of what the file says, and within a whole one at the
ends of the range, where it may have been cut off. What is further away is another weight, or has another scale or zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.known import is_floating
from pipeline.formats.ledger import Constant, Problem
from pipeline.formats.onnx import kernels, products

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.formats.known import Known
    from pipeline.formats.ledger import Audit
    from pipeline.formats.onnx.graph import Graph, Node

_HALF, _WHOLE = 0.501, 1.001  # of a step; what float32 loses in scale and product is far less
_ALIKE, _OFF = 0.98, 0.01  # how alike two tensors are that were meant to be the same; how far a scale may be off unsaid
_COARSE = 0.47  # of the range: weights of 7 bits in 8 use no more
_FEW, _SMALL = 64, 0.05  # elements of a literal; how far a step may take one, as a share of it
_WIDE_BITS = 32  # a bias has room that it need not use
MEASURED = "measured on the calibration data"
QUANTISED = "quantised"


@dataclass(frozen=True, slots=True)
class Quantised:
    """A weight as whole numbers: what they stand for, in float64, the step at each element, and which of them are at an end of the range.

    `used`: the largest distance of a number from the zero point ÷ the largest possible; `names` are the constants that it is made of,
    `read_as` is what the operator reads that takes it.
    """

    name: str
    value: Any
    step: Any
    at_end: Any
    used: float
    names: tuple[str, ...]
    read_as: str


def account(graph: Graph, known: Known, found: Audit) -> tuple[set[str], set[str]]:
    """Account for every quantised constant; return the names of constants that are done with, and the state dict's tensors they use."""
    done: set[str] = set()
    keys: set[str] = set()
    for each in of(graph):
        done |= {*each.names}
        elements = sum(int(c.value.size) for c in graph.constants if c.name in each.names)
        found.constants += len(each.names)
        found.elements += elements
        keys |= _account(each, known, found, elements)
    for constant in _of_activations(graph):
        if constant.name not in done:
            done.add(constant.name)
            found.constants += 1
            found.elements += int(constant.value.size)
            found.count(MEASURED, constant)
    return done, keys


def _account(quantised: Quantised, known: Known, found: Audit, elements: int) -> set[str]:
    nearest: tuple[float, str, tuple[str, ...], float, float] | None = None
    for what, keys, wanted, tolerance in _candidates(known, quantised.value.size):
        for form, spread in _layouts(wanted, tolerance, quantised.value):
            off = np.abs(quantised.value - form)
            steps = (off - spread) / quantised.step
            if (steps <= np.where(quantised.at_end, _WHOLE, _HALF)).all():
                found.accounted[QUANTISED] = found.accounted.get(QUANTISED, 0) + elements
                found.holds[quantised.name] = found.holds[quantised.read_as] = keys
                if quantised.used < _COARSE:
                    said = (
                        f"has a scale that is {_COARSE * 2 / max(quantised.used, 1e-9):.3g} × as coarse as {what} needs"
                    )
                    found.problems.append(Problem(quantised.name, said, nearest=keys[0]))
                return {*keys}
            alike = _alike(quantised.value, form)
            if alike > (nearest[0] if nearest else _ALIKE):
                nearest = (alike, what, keys, float(np.quantile(steps, 0.9)), _slope(quantised.value, form))
    if _is_stated(quantised, known):
        found.accounted[QUANTISED] = found.accounted.get(QUANTISED, 0) + elements
        return set()
    if nearest:
        _, what, own, typical, slope = nearest
        said = f"is not {what} rounded to its steps: nine of ten numbers are up to {max(typical, 0.0):.3g} steps off, half a step is right"
        said += f" (it is {slope:.3g} × as large)" if abs(slope - 1) > _OFF else ""
        found.problems.append(Problem(quantised.name, said, nearest=own[0], elements=quantised.value.size))
        return {*own}
    found.leave(quantised.name, quantised.value.shape, elements, QUANTISED, "")
    return set()


def _is_stated(quantised: Quantised, known: Known) -> bool:
    """Whether these are a few numbers that the program states, a bound or a factor, rounded to steps that are small beside them."""
    if quantised.value.size > _FEW:
        return False
    stated = np.array(sorted(each for each in known.numbers[1] if np.isfinite(each)))
    wide = quantised.value.reshape(-1, 1)
    room = np.where(quantised.at_end, _WHOLE, _HALF) * quantised.step
    near = np.abs(wide - stated) <= np.minimum(room.reshape(-1, 1), _SMALL * np.abs(stated))
    return bool(near.any(axis=1).all()) if stated.size else False


def _alike(one: Any, other: Any) -> float:
    """Return the cosine of the angle between two tensors; 0.0 where one is zero."""
    length = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.sum(one * other)) / length if length else 0.0


def _slope(one: Any, other: Any) -> float:
    return float(np.sum(one * other)) / float(np.sum(other * other))


def _candidates(known: Known, size: int) -> Iterator[tuple[str, tuple[str, ...], Any, Any]]:
    for key, tensor in known.state.items():
        if tensor.size == size and is_floating(tensor):
            yield key, (key,), tensor.astype(np.float64), 0.0
    for each in known.derived:
        if each.value.size == size and each.value.dtype.kind == "f" and each.keys:
            yield str(each), each.keys, each.value, each.tolerance


def _layouts(wanted: Any, tolerance: Any, like: Any) -> Iterator[tuple[Any, Any]]:
    spread = np.broadcast_to(tolerance, wanted.shape)
    if wanted.shape == like.shape:
        yield wanted, spread
    if wanted.ndim == 2 and wanted.T.shape == like.shape:
        yield wanted.T, spread.T
    elif wanted.shape != like.shape and [each for each in wanted.shape if each != 1] == [
        s for s in like.shape if s != 1
    ]:
        yield wanted.reshape(like.shape), spread.reshape(like.shape)


def of(graph: Graph) -> Iterator[Quantised]:
    """Yield the weights of a graph that are whole numbers."""
    constants = {each.name: each.value for each in graph.constants}
    seen: set[str] = set()
    for node in graph.nodes:
        name = next((each for each in node.inputs[_WEIGHT.get(node.operator, 9) :][:1] if each in constants), None)
        if name is None or name in seen:
            continue
        seen.add(name)
        if node.operator == "DequantizeLinear":
            yield _dequantised(node, constants)
        elif node.operator == "MatMulNBits":
            yield _of_blocks(node, constants)
        elif scale := _scale_behind(node, graph, constants):
            yield _integer(node, scale, constants)


_WEIGHT = {"DequantizeLinear": 0, "MatMulInteger": 1, "ConvInteger": 1, "MatMulNBits": 1}
"""Which input of an operator is a weight of whole numbers."""
OPERATORS = frozenset({*_WEIGHT, "QuantizeLinear"})


def _dequantised(node: Node, constants: dict[str, Any]) -> Quantised:
    name, scale, *zeros = [each for each in node.inputs if each]
    attributes = {each.name: each.i for each in node.proto.attribute}
    whole, step = constants[name], constants[scale]
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    zero = constants[zeros[0]] if zeros else None
    return _made(whole, step, zero, axis, block, (name, scale, *zeros), node.outputs[0])


def _integer(node: Node, scale: str, constants: dict[str, Any]) -> Quantised:
    name, zeros = node.inputs[1], [each for each in node.inputs[3:4] if each]
    axis = 0 if node.operator == "ConvInteger" else 1
    zero = constants[zeros[0]] if zeros else None
    return _made(constants[name], constants[scale], zero, axis, 0, (name, scale, *zeros), name)


def _made(whole: Any, scale: Any, zero: Any, axis: int, block: int, names: tuple[str, ...], read_as: str) -> Quantised:
    axis = axis % whole.ndim if whole.ndim else 0
    step, shift = (kernels.along(each, whole.ndim, axis, block, whole.shape) for each in (scale, zero))
    codes = kernels.less_zero(whole, shift)
    low, high = kernels.RANGES[whole.dtype.name]
    ends = (kernels.whole(whole) <= low) | (kernels.whole(whole) >= high)
    wide = np.broadcast_to(np.abs(step.astype(np.float64)), whole.shape)
    used = float(np.abs(codes).max(initial=0.0)) / high if high < 2 ** (_WIDE_BITS - 1) - 1 else 1.0
    is_zero = not codes.any()
    return Quantised(names[0], codes * wide, wide, ends, 1.0 if is_zero else _share(used, low), names, read_as)


def _share(used: float, low: int) -> float:
    """Return the share of the range that is used: of an unsigned one, half is the most that one side of the zero point may need."""
    return used * (1.0 if low else 2.0)


def _of_blocks(node: Node, constants: dict[str, Any]) -> Quantised:
    attributes = {each.name: each.i for each in node.proto.attribute}
    names = tuple(each for each in node.inputs[1:4] if each in constants)
    packed, scales = constants[names[0]], constants[names[1]]
    zeros = constants[names[2]] if len(names) > 2 else None
    rows, length = attributes["N"], attributes["K"]
    bits, block = attributes.get("bits", 4), attributes["block_size"]
    value = products.unpacked(packed, scales, zeros, rows, length, bits, block)
    blocks = -(-length // block)
    step = np.repeat(np.abs(np.asarray(scales, np.float64)).reshape(rows, blocks), block, 1)[:, :length]
    codes = np.abs(value) / np.where(step, step, 1.0)
    most = 2 ** (bits - 1)
    used = float(codes.max(initial=0.0)) / most
    return Quantised(
        names[0], value, np.where(step, step, np.inf), codes >= most - 1, used if value.any() else 1.0, names, names[0]
    )


def _scale_behind(node: Node, graph: Graph, constants: dict[str, Any]) -> str | None:
    """Return the constant that the product of whole numbers is multiplied by, behind the cast: alone, or with the activation's scale."""
    for cast in graph.users.get(node.outputs[0], ()):
        for product in graph.users.get(cast.outputs[0], ()) if cast.operator == "Cast" else ():
            for name in product.inputs if product.operator == "Mul" else ():
                maker = graph.made_by.get(name)
                inputs = [name, *(maker.inputs if maker is not None and maker.operator == "Mul" else ())]
                if scale := next((each for each in inputs if each in constants), None):
                    return scale
    return None


def _of_activations(graph: Graph) -> Iterator[Constant]:
    """Yield the scales and zero points of what is no constant."""
    by_name = {each.name: each for each in graph.constants}
    for node in graph.nodes:
        if node.operator in {"QuantizeLinear", "DequantizeLinear"} and node.inputs[0] not in by_name:
            yield from (by_name[name] for name in node.inputs[1:3] if name in by_name)
