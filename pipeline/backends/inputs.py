"""Arrays held against what is declared of a network's inputs, before a runtime sees them: not every runtime looks itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.interface import formula_names, formula_value, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pipeline.backends.backend import Session
    from pipeline.interface import Array, Arrays, Dimension, InputSpec, Interface


def checked(session: Session, interface: Interface) -> Session:
    """Return a session that is given only what is declared of its inputs."""

    def run(arrays: Arrays) -> dict[str, Any]:
        check_inputs(interface, arrays)
        return session.run(arrays)

    def bind(arrays: Arrays) -> Callable[[], object]:
        check_inputs(interface, arrays)
        return session.bind(arrays)

    return replace(session, run=run, bind=bind)


def check_inputs(interface: Interface, inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless names, dtypes, ranks, sizes and the range of integers are those declared.

    Dimensions must agree with each other as well.
    """
    import numpy as np

    sizes: dict[str, int] = {}
    if len(inputs) != len(interface.inputs):
        raise _names_error(interface, inputs)
    for spec in interface.inputs:
        array = inputs.get(spec.name)
        if array is None:
            raise _names_error(interface, inputs)
        if not isinstance(array, np.ndarray):
            raise _type_error(spec, array)
        if array.dtype != spec.dtype:
            raise InputError(
                f"{spec.name} is {array.dtype}, expected {spec.dtype}", hint=f"{spec.name}.astype(np.{spec.dtype})"
            )
        _check_shape(spec, array.shape, sizes)
        if array.dtype.kind in "iu" and (spec.low, spec.high) != (None, None):
            _check_integers(spec, array)
    for dimension in interface.dimensions:
        size = sizes.get(dimension.name, dimension.min)
        if not dimension.min <= size <= dimension.max or size % dimension.multiple_of:
            raise _range_error(dimension, size)
        if dimension.formula is not None:
            _check_related(dimension, sizes)


def _check_shape(spec: InputSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Refuse another rank or size than declared; add the sizes of dimensions not seen before."""
    if len(shape) != len(spec.shape):
        told = f"{spec.name} has shape {_text(shape)}, declared is {_text(spec.shape)}"
        raise InputError(told, hint=f"give an array of {len(spec.shape)} axes")
    for declared, size in zip(spec.shape, shape, strict=True):
        expected = sizes.setdefault(declared, size) if isinstance(declared, str) else declared
        if size != expected:
            raise _size_error(spec, shape, declared, expected)


def _check_related(dimension: Dimension, sizes: Mapping[str, int]) -> None:
    """Refuse a size that does not follow from the others as declared, where these are known."""
    formula = dimension.formula or ""
    if dimension.name in sizes and all(name in sizes for name in formula_names(formula)):
        wanted = formula_value(formula, sizes)
        if sizes[dimension.name] != wanted:
            raise InputError(
                f"{dimension.name} is {sizes[dimension.name]}, declared is {formula}, which is {wanted}",
                hint=f"give inputs whose sizes agree: {in_words({name: sizes[name] for name in formula_names(formula)})}",
            )


def _check_integers(spec: InputSpec, array: Any) -> None:
    """Refuse an index the network was not proven for: one runtime raises, another reads what lies elsewhere."""
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    outside = array[(array < low) | (array >= high)]
    if outside.size:
        told = f"{spec.name} holds {outside[0]}, declared are integers from {low} to below {high}"
        raise InputError(told, hint="give integers in that range")


def _names_error(interface: Interface, inputs: Mapping[str, Array]) -> InputError:
    declared = [spec.name for spec in interface.inputs]
    missing = [name for name in declared if inputs.get(name) is None]
    unknown = [name for name in inputs if name not in declared]
    parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    return InputError(f"inputs do not fit: {'; '.join(parts)}", hint=f"the network takes {', '.join(declared)}")


def _type_error(spec: InputSpec, array: object) -> InputError:
    return InputError(
        f"{spec.name} is a {type(array).__name__}, expected a numpy array of {spec.dtype}",
        hint=f"np.asarray({spec.name}, dtype=np.{spec.dtype})",
    )


def _size_error(spec: InputSpec, shape: tuple[int, ...], declared: int | str, expected: int) -> InputError:
    other = f", and {declared} is {expected} elsewhere" if isinstance(declared, str) else ""
    told = f"{spec.name} has shape {_text(shape)}, declared is {_text(spec.shape)}{other}"
    return InputError(told, hint=f"give it {expected} in place {spec.shape.index(declared) + 1}")


def _range_error(dimension: Dimension, size: int) -> InputError:
    step = f", in steps of {dimension.multiple_of}" if dimension.multiple_of > 1 else ""
    return InputError(
        f"{dimension.name} is {size}, declared is {dimension.min} to {dimension.max}{step}",
        hint=f"stay in that range, or export again with another dimensions.{dimension.name}",
    )


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
