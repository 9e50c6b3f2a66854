"""The second way to ONNX: torch.onnx's TorchScript-based exporter, which records one run of the network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pipeline.errors import ExportError
from pipeline.formats import refusal
from pipeline.formats.capture import axis_names
from pipeline.interface import complete_sizes, free_dimensions
from pipeline.rebuild import calling
from pipeline.rebuild.cases import allowed, example_sizes, make
from pipeline.rebuild.rehearsal import own_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface

EXPORTER = "torch.onnx.export(dynamo=False)"
_MAX_OPSET = 20
_SHOWN_LINES = 3
_LARGER = 3


def trace(prepared: Forward, interface: Interface, opset: int, target: Path) -> tuple[str, ...]:
    """Write the network, as it computes the examples, to `target`; return which of its lines stay as they went.

    Weights go beside the file where they do not fit into it.

    Raises:
        ExportError: torch.onnx.export refuses the network, or has no such opset on this way.
    """
    import torch

    if opset > _MAX_OPSET:
        hint = f"set `opset` to {_MAX_OPSET} or less, or `method: export`"
        raise ExportError(f"{EXPORTER}: it writes operator sets up to {_MAX_OPSET}, not {opset}", hint=hint)
    axes = dict(zip(prepared.names, axis_names(interface, prepared.names), strict=True))
    axes |= _output_axes(prepared, interface)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with torch.no_grad():
                torch.onnx.export(
                    prepared.module,
                    prepared.tensors,
                    str(target),
                    opset_version=opset,
                    input_names=list(prepared.names),
                    output_names=list(interface.outputs),
                    dynamic_axes={name: named for name, named in axes.items() if named},
                    dynamo=False,
                    verbose=False,
                )
        except Exception as error:
            raise refusal.refused(EXPORTER, error, prepared.module) from error
    _with_every_input(target, prepared, axes)
    return _kept_lines(warned)


def _with_every_input(file: Path, prepared: Forward, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Put back the inputs that nothing uses: this way leaves them out, and whoever runs the file gives all that are declared."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    present = {each.name: each for each in model.graph.input}
    if present.keys() >= set(prepared.names):
        return
    for name, tensor in zip(prepared.names, prepared.tensors, strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(calling.array_from(tensor).dtype)
        shape = [axes[name].get(axis, size) for axis, size in enumerate(tensor.shape)]
        present.setdefault(name, onnx.helper.make_tensor_value_info(name, kind, shape))
    del model.graph.input[:]
    model.graph.input.extend(present[name] for name in prepared.names)
    onnx.save(model, str(file))


def _kept_lines(warned: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Say which lines of the network's own code took a value for what it is in the example."""
    from torch.jit._trace import TracerWarning

    lines = [own_line(each.filename, each.lineno) for each in warned if issubclass(each.category, TracerWarning)]
    if not (found := list(dict.fromkeys(line for line in lines if line))):
        return ()
    more = f" … and {len(found) - _SHOWN_LINES} more" if len(found) > _SHOWN_LINES else ""
    return (f"what the example gave stays in the file where the network has {'; '.join(found[:_SHOWN_LINES])}{more}",)


def _output_axes(prepared: Forward, interface: Interface) -> dict[str, dict[int, str]]:
    """Return which axes of each output change with the sizes, by running the network at several: the dimension, or a name of its own.

    An axis that is wrongly said to be fixed, or to be one of another name, is one that onnxruntime plans its memory by.
    """
    points = _points(interface)
    seen = [(sizes, shapes) for sizes in points if (shapes := _shapes(prepared, interface, sizes))]
    found: dict[str, dict[int, str]] = {}
    for name in interface.outputs:
        of_output = [each.get(name, ()) for _, each in seen]
        if len({len(shape) for shape in of_output}) != 1:
            continue
        for axis, column in enumerate(zip(*of_output, strict=True)):
            if len(set(column)) > 1:
                same = (
                    each
                    for each in points[0]
                    if all(sizes[each] == at for (sizes, _), at in zip(seen, column, strict=True))
                )
                found.setdefault(name, {})[axis] = next(same, f"{name}_{axis}")
    return found


def _points(interface: Interface) -> list[dict[str, int]]:
    """Return the sizes to look at: the example's, others near them, the smallest, and larger ones."""
    first = example_sizes(interface)
    free = {each.name: allowed(each) for each in free_dimensions(interface.dimensions)}
    near = {
        name: next((size for size in sizes if size > 1 and size != first[name]), sizes[-1])
        for name, sizes in free.items()
    }
    larger = {
        name: max(size for size in sizes if size <= max(_LARGER * first[name] + index, sizes[0]))
        for index, (name, sizes) in enumerate(free.items())
    }
    least = {name: sizes[0] for name, sizes in free.items()}
    return [first, *(complete_sizes(interface.dimensions, each) for each in (near, least, larger))]


def _shapes(prepared: Forward, interface: Interface, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the outputs' shapes at some sizes; empty where the network fails there."""
    import torch

    tensors: dict[str, torch.Tensor] = calling.tensors_from(
        make(interface, sizes, seed=0, name="shapes of outputs").inputs
    )
    try:
        with torch.inference_mode():
            result = prepared.module(*(tensors[name] for name in prepared.names))
    except Exception:  # noqa: BLE001 - a network may raise anything, and what it does at these sizes is for parity
        return {}
    values = [result] if isinstance(result, torch.Tensor) else list(result)
    return {name: tuple(value.shape) for name, value in zip(interface.outputs, values, strict=False)}
