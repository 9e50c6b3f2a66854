"""What goes in and out of a network: inputs, dimensions and the sizes that follow from others, outputs, cases. Without torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic_core import core_schema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]  # type: ignore[explicit-any]  # numpy says Any of what a scalar holds
else:

    class _IsArray:
        """Lets pydantic ask for an array, and imports numpy only for a model that holds one: a config holds none."""

        @classmethod
        def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> core_schema.CoreSchema:
            import numpy as np

            return core_schema.is_instance_schema(np.ndarray)

    Array = Annotated[object, _IsArray]

Arrays: TypeAlias = Mapping[str, Array]
_SHOWN = 4
Sizes = Mapping[str, int]
"""Dimension name → size."""


def in_words(sizes: Sizes) -> str:
    """Return the words for a combination of sizes, as every message and report has them."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: what kind of values, at which sizes, with the arrays themselves by input name."""

    name: str
    sizes: Sizes
    inputs: Arrays


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How what arrives becomes what the network takes, a float `dtype` of `shape`: (resized(x) / divide_by − mean) / scale.

    `layout` is NHWC or HWC where what arrives has its channels last; where it is `resized`, that is to the last two sizes of `shape`.
    `mean` and `scale` hold one number, or one for each channel along axis `channels` of `shape`.
    """

    dtype: str
    shape: tuple[int | str, ...]
    layout: str | None = None
    resized: bool = False
    divide_by: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    channels: int = 1

    def in_words(self) -> str:
        """Say what is done and what comes of it, in its order."""
        steps = [
            *(["channels first"] if self.layout else []),
            *([f"resized to {self.shape[-2]} × {self.shape[-1]}"] if self.resized else []),
            *([f"/ {self.divide_by:g}"] if self.divide_by != 1 else []),
            *([f"− {_numbers(self.mean)}"] if any(self.mean) else []),
            *([f"/ {_numbers(self.scale)}"] if set(self.scale) != {1.0} else []),
        ]
        return f"{', '.join(steps) or 'cast'} → {self.dtype} [{', '.join(map(str, self.shape))}]"


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{each:g}" for each in values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
    return shown if len(values) == 1 else f"[{shown}]"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input with the values it may hold: integers in [low, high), floats normal × scale or uniform in [low, high).

    A tensor inside a nested input is named by its path: `past.0.key` is `key` of the first item of `past`. With `preprocess` it
    is what arrives in place of what the network takes.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None
    values: str = "normal"
    scale: float = 1.0
    preprocess: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dynamic dimension and the sizes it may take: min, min + step … up to max, each a multiple of `multiple_of`.

    With a `formula` it follows from other dimensions, and min and max are what that gives.
    """

    name: str
    min: int
    max: int
    multiple_of: int = 1
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """What goes in and out of a network: inputs, the dimensions their shapes name, and the outputs' names in order.

    `method` is what is called, `constants` are its further arguments (plain values), and `paths` says by an output's name
    where in the returned value it lies, for outputs that are not called as they lie there.
    """

    inputs: tuple[InputSpec, ...]
    dimensions: tuple[Dimension, ...]
    outputs: tuple[str, ...]
    method: str = "forward"
    constants: Mapping[str, object] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def preprocesses(self) -> bool:
        """Whether some of what arrives becomes something else before the network takes it."""
        return any(each.preprocess for each in self.inputs)

    def of_network(self) -> Interface:
        """Return what goes in and out of the network itself, without preprocessing."""
        if not self.preprocesses:
            return self
        inputs = tuple(
            InputSpec(each.name, each.preprocess.dtype, each.preprocess.shape) if each.preprocess else each
            for each in self.inputs
        )
        used = {size for each in inputs for size in each.shape}
        for each in reversed(ordered_dimensions(self.dimensions)):
            if each.name in used and each.formula is not None:
                used.update(formula_names(each.formula))
        return replace(self, inputs=inputs, dimensions=tuple(each for each in self.dimensions if each.name in used))


# Sizes that follow from others: `past + new`, of whole numbers, names, +, - and *

MAX_FORMULA_LENGTH = 200
_LARGEST = 2**31


def formula_names(formula: str) -> tuple[str, ...]:
    """Return the names that a formula mentions, each once, in order.

    Raises:
        ValueError: it is none; the message says why.
    """
    return tuple(dict.fromkeys(node.id for node in ast.walk(_parsed(formula)) if isinstance(node, ast.Name)))


def formula_value(formula: str, sizes: Sizes) -> int:
    """Return the size that a formula gives."""
    return _value(_parsed(formula), {name: (size, size) for name, size in sizes.items()})[0]


def formula_bounds(formula: str, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return a lower and an upper bound of a formula's sizes, for names within `ranges`."""
    return _value(_parsed(formula), ranges)


def complete_sizes(dimensions: Sequence[Dimension], sizes: Sizes) -> dict[str, int]:
    """Return sizes of all dimensions, in their order: the given ones, and those that follow from them."""
    known = dict(sizes)
    for each in ordered_dimensions(dimensions):
        if each.formula is not None:
            known[each.name] = formula_value(each.formula, known)
    return {each.name: known[each.name] for each in dimensions if each.name in known}


def free_dimensions(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the dimensions that follow from no other."""
    return tuple(each for each in dimensions if each.formula is None)


def ordered_dimensions(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return dimensions so that each comes after those that its formula names.

    Raises:
        ValueError: formulas go in a circle.
    """
    found: list[Dimension] = list(free_dimensions(dimensions))
    waiting = [each for each in dimensions if each.formula is not None]
    while waiting:
        known = {each.name for each in found}
        ready = [each for each in waiting if known.issuperset(formula_names(each.formula or ""))]
        if not ready:
            raise ValueError(f"{', '.join(each.name for each in waiting)} follow from one another in a circle")
        found += ready
        waiting = [each for each in waiting if each not in ready]
    return tuple(found)


def linear_formula(formula: str) -> tuple[dict[str, int], int] | None:
    """Return the whole factor of each name and what is added, or None where names are multiplied with one another."""
    mentioned = formula_names(formula)
    added = formula_value(formula, dict.fromkeys(mentioned, 0))
    factors = {name: formula_value(formula, {**dict.fromkeys(mentioned, 0), name: 1}) - added for name in mentioned}
    probe = {name: 7 + 3 * index for index, name in enumerate(mentioned)}
    wanted = added + sum(factor * probe[name] for name, factor in factors.items())
    twice = added + sum(2 * factor * probe[name] for name, factor in factors.items())
    doubled = {name: 2 * size for name, size in probe.items()}
    is_linear = (formula_value(formula, probe), formula_value(formula, doubled)) == (wanted, twice)
    return (factors, added) if is_linear else None


def _parsed(formula: str) -> ast.expr:
    if len(formula) > MAX_FORMULA_LENGTH:
        raise ValueError(f"a formula of more than {MAX_FORMULA_LENGTH} characters")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{formula!r} is no formula of whole numbers, names, +, - and *") from None
    _require_arithmetic(tree, formula)
    return tree


def _require_arithmetic(node: ast.AST, formula: str) -> None:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            _require_arithmetic(left, formula)
            _require_arithmetic(right, formula)
        case ast.Constant(value=value) if type(value) is int and value < _LARGEST:
            pass
        case ast.Name():
            pass
        case _:
            raise ValueError(
                f"{formula!r} holds {ast.unparse(node)!r}, and sizes are made of whole numbers, names, +, - and *"
            )


def _value(node: ast.expr, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the smallest and the largest value, by interval arithmetic."""
    match node:
        case ast.Constant(value=int(value)):
            return value, value
        case ast.Name(id=name):
            return ranges[name]
        case ast.BinOp(left=left, op=operator, right=right):
            (low, high), (least, most) = _value(left, ranges), _value(right, ranges)
            if isinstance(operator, ast.Add):
                return low + least, high + most
            if isinstance(operator, ast.Sub):
                return low - most, high - least
            corners = [one * other for one in (low, high) for other in (least, most)]
            return min(corners), max(corners)
    raise AssertionError(node)
