"""The network as torch.export captures it, held against the sizes that the config declares."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.formats import refusal
from pipeline.interface import free_dimensions, linear_formula
from pipeline.rebuild.cases import allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from pipeline.formats.forward import Forward
    from pipeline.interface import Dimension, Interface

_ASSUMED = 2  # torch takes a size that is not fixed for at least this; what comes of 0 and 1 is for parity to say


def named(prepared: Forward, interface: Interface) -> torch.export.ExportedProgram:
    """Return the program with the config's dimensions as torch's named ones, which may be related but neither fixed nor narrowed.

    Raises:
        ExportError: torch.export refuses the network.
    """
    return _exported(prepared, _dynamic_shapes(interface, prepared.names))


def wide(prepared: Forward, interface: Interface) -> torch.export.ExportedProgram:
    """Return the program with sizes that torch finds the ranges of itself, and recurrent layers as loops.

    That takes networks which named dimensions refuse: recurrent layers of any length, sizes that are padded to a multiple.

    Raises:
        ExportError: torch.export refuses the network, or captures less than the declared sizes; both ranges are named.
    """
    with _loops(), _oblivious():  # as torch.onnx.export does for a network that it captures itself
        program = _exported(prepared, _hinted_shapes(interface, prepared.names))
    if problems := narrowed(program, interface, prepared.names):
        told = "; ".join(problems)
        hint = refusal.eager_hint(prepared, interface)
        raise ExportError(f"torch.export: it captured less than the config declares: {told}", hint=hint)
    return program


@contextmanager
def _loops() -> Iterator[None]:
    """Let LSTM and GRU be captured as loops over their steps, not as the example's steps one after the other."""
    import torch
    from torch.export._patches import (
        register_gru_while_loop_decomposition,
        register_lstm_while_loop_decomposition,
    )

    def forget() -> None:
        # An operator that was captured before keeps the kernel that it was captured with.
        for each in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
            each._dispatch_cache.clear()  # noqa: SLF001 - torch's patches leave it as it is

    try:
        with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
            forget()
            yield
    finally:
        forget()


@contextmanager
def _oblivious() -> Iterator[None]:
    import torch

    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # noqa: SLF001 - torch.onnx sets it too
        yield


def _exported(prepared: Forward, shapes: tuple[dict[int, Any], ...]) -> torch.export.ExportedProgram:
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            # A recurrent layer sets up its list of weights anew; they are the same.
            warnings.filterwarnings("ignore", message="The tensor attributes? .*_flat_weights", category=UserWarning)
            warnings.filterwarnings("ignore", message="_check_is_size will be removed", category=FutureWarning)
            return torch.export.export(prepared.module, prepared.tensors, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise refusal.refused("torch.export", error, prepared.module) from error


def narrowed(program: torch.export.ExportedProgram, interface: Interface, names: Sequence[str]) -> list[str]:
    """Return, for each dimension that a program takes fewer sizes of than declared, both ranges in words; related ones too."""
    inputs = [each.arg.name for each in program.graph_signature.input_specs if each.kind.name == "USER_INPUT"]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    free = {each.name: each for each in free_dimensions(interface.dimensions)}
    problems: dict[str, str] = {}
    owners: dict[Any, str] = {}
    for name, axes in zip(inputs, axis_names(interface, names), strict=True):
        for axis, dimension in axes.items():
            if dimension not in free or dimension in problems:
                continue
            size = values[name].shape[axis]
            if problem := _narrower(size, free[dimension], program):
                problems[dimension] = problem
            elif not isinstance(size, int):
                for symbol in size.node.expr.free_symbols:
                    other = owners.setdefault(symbol, dimension)
                    if other != dimension:
                        problems[dimension] = f"{other} and {dimension}: declared independent, captured as one size"
    return list(problems.values())


def _narrower(size: Any, dimension: Dimension, program: torch.export.ExportedProgram) -> str | None:
    """Say that a captured size takes less than a dimension, with both ranges; None where it does not."""
    from torch.utils._sympy.value_ranges import bound_sympy

    sizes = allowed(dimension)
    declared = f"{dimension.name}: declared {sizes[0]} to {sizes[-1]}"
    if isinstance(size, int):
        return f"{declared}, captured {size} only{_where(program, size)}"
    expression = size.node.expr
    found = bound_sympy(expression, program.range_constraints)
    low, high = found.lower, found.upper
    if low > max(sizes[0], _ASSUMED) or high < sizes[-1]:
        return f"{declared}, captured {f'{low} only' if low == high else f'{low} to {high}'}"
    step, first = _step_of(expression)
    if step > 1 and any((each - first) % step for each in sizes[:2]):
        return f"{declared}, captured only every {step}th size (multiple_of)"
    return None


def _step_of(expression: Any) -> tuple[int, int]:
    """Return the distance between the values of a linear expression of one symbol, and one of them; (1, 0) of any other."""
    symbols = list(expression.free_symbols)
    if len(symbols) != 1 or not expression.is_polynomial(*symbols):
        return 1, 0
    zero, one = expression.subs(symbols[0], 0), expression.subs(symbols[0], 1)
    return max(1, abs(int(one - zero))), int(zero)


def _where(program: torch.export.ExportedProgram, size: int) -> str:
    """Return the network's line that fixed a size, as far as torch has kept it."""
    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    mode = next((each.fake_mode for each in values if hasattr(each, "fake_mode")), None)
    shapes = mode.shape_env if mode else None
    if shapes is None:
        return ""
    fixed = (shapes.replacements_slocs.get(symbol) for symbol, value in shapes.replacements.items() if value == size)
    line = next((found for each in fixed if (found := refusal.line_in(str(each)))), "")
    return f" (by {line})" if line else ""


def _dynamic_shapes(interface: Interface, names: Sequence[str]) -> tuple[dict[int, Any], ...]:
    """Declare for each input, in order, which axes are dynamic and within which range."""
    from torch.export import Dim

    dims: dict[str, Any] = {}
    for dimension in free_dimensions(interface.dimensions):
        sizes, step = allowed(dimension), dimension.multiple_of
        if len(sizes) > 1:
            name = dimension.name if step == 1 else f"_{dimension.name}"
            base = Dim(name, min=sizes[0] // step, max=sizes[-1] // step)
            dims[dimension.name] = base if step == 1 else step * base
    for dimension in interface.dimensions:
        if dimension.formula is not None:
            dims[dimension.name] = _derived(dimension.formula, dims)
    return tuple({axis: dims[name] for axis, name in axes.items()} for axes in axis_names(interface, names))


def _hinted_shapes(interface: Interface, names: Sequence[str]) -> tuple[dict[int, Any], ...]:
    """Leave it to torch what each dynamic axis may be, within what is declared."""
    from torch.export import Dim

    sizes = {each.name: allowed(each) for each in free_dimensions(interface.dimensions)}
    hints = {name: Dim.AUTO(min=each[0], max=each[-1]) for name, each in sizes.items() if len(each) > 1}
    return tuple(
        {axis: hints.get(name, Dim.AUTO) for axis, name in axes.items()} for axes in axis_names(interface, names)
    )


def _derived(formula: str, dims: Mapping[str, Any]) -> Any:
    """Return a size that follows from one other as torch.export says it; torch finds out itself what others follow from."""
    from torch.export import Dim

    found = linear_formula(formula)
    if found is None or len(found[0]) != 1:
        return Dim.DYNAMIC
    ((name, factor),), added = found[0].items(), found[1]
    if factor < 1 or name not in dims:
        return Dim.DYNAMIC
    scaled = dims[name] if factor == 1 else factor * dims[name]
    return scaled + added if added > 0 else scaled - -added if added else scaled


def axis_names(interface: Interface, names: Sequence[str]) -> tuple[dict[int, str], ...]:
    """Return for each input, in order, its dynamic axes and the dimension each stands for."""
    dynamic = {each.name for each in interface.dimensions if len(allowed(each)) > 1}
    shapes = {spec.name: spec.shape for spec in interface.inputs}
    return tuple(
        {axis: size for axis, size in enumerate(shapes[name]) if isinstance(size, str) and size in dynamic}
        for name in names
    )
