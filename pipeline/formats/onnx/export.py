"""ONNX, through torch.export."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import ExportError
from pipeline.formats import forward, program
from pipeline.formats.artifact import Written
from pipeline.formats.format import FromNetwork, Options
from pipeline.formats.onnx import canonical
from pipeline.interface import free_dimensions, linear_formula
from pipeline.rebuild.cases import allowed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface


class OnnxOptions(Options):
    """Options of an ONNX export."""

    opset: int = Field(20, ge=18, le=24, description="version of the ONNX operator set")
    external_data: bool | None = Field(
        None, description="keep weights in model.onnx.data beside the graph; default: only beyond 1.5 GB"
    )


def export(origin: FromNetwork, options: Options) -> Written:
    """Write an ONNX file, and `<name>.data` beside it where weights do not fit into it.

    Raises:
        ExportError: torch.export, torch.onnx.export or onnx.checker refuses the network.
    """
    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    program_ = _captured(prepared, origin.interface)
    exported = _translated(program_, prepared, origin.interface, options.opset)
    stripped = _write(exported, origin, external=_is_external(origin.module, options))
    _check(stripped.files[0])
    return Written(
        stripped.files,
        {"opset": options.opset, "external_data": len(stripped.files) > 1},
        explanations=stripped.nodes,
        program=program.as_values(exported.exported_program)
        | {"captured": exported.exported_program.graph is program_.graph},
    )


def captured(origin: FromNetwork) -> torch.export.ExportedProgram:
    """Return the network as torch.export captures it.

    Raises:
        ExportError: torch.export refuses it.
    """
    return _captured(forward.prepare(origin.module, origin.interface, origin.examples), origin.interface)


def _captured(prepared: Forward, interface: Interface) -> torch.export.ExportedProgram:
    import torch

    shapes = _dynamic_shapes(interface, prepared.names)
    try:
        with torch.no_grad():
            return torch.export.export(prepared.module, prepared.tensors, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export: {_reason(error)}", hint=_hint(error)) from error


def translate(origin: FromNetwork, opset: int) -> tuple[Any, tuple[str, ...]]:
    """Return the network as torch's ONNXProgram, with the exported program it was made from, and its inputs' names in order.

    Raises:
        ExportError: torch.export or torch.onnx.export refuses it.
    """
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    exported = _captured(prepared, origin.interface)
    return _translated(exported, prepared, origin.interface, opset), prepared.names


def _translated(exported: torch.export.ExportedProgram, prepared: Forward, interface: Interface, opset: int) -> Any:
    axes = _first_uses(_axis_names(interface, prepared.names))
    return _translate(exported, _Names(list(prepared.names), list(interface.outputs), axes), opset)


def _write(exported: Any, origin: FromNetwork, *, external: bool) -> canonical.Stripped:
    """Write the model's canonical form; weights that stay inside never touch the disk in another form."""
    target, folder = origin.target, origin.target.parent
    if not external:
        return canonical.from_model(exported.model_proto, folder, target, identity=origin.identity)
    raw = folder / "raw"
    raw.mkdir()
    exported.save(str(raw / "model.onnx"), external_data=True)
    try:
        return canonical.from_file(raw / "model.onnx", target, identity=origin.identity)
    finally:
        shutil.rmtree(raw)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the config calls things: inputs and outputs in the program's order, and the dynamic axes of each input."""

    inputs: list[str]
    outputs: list[str]
    axes: tuple[dict[int, str], ...]


def _translate(program: torch.export.ExportedProgram, names: _Names, opset: int) -> Any:
    """Translate an exported program to ONNX, without the exporter's decomposition pass where that has nothing to do.

    The pass takes half of the time: it traces the whole program again, to replace operators that have no translation and
    to make in-place ones functional. Where its table names none of the program's operators it is left out; should the
    translation then fail after all, it is done again with it.
    """
    from torch.onnx import OnnxExporterError

    decompose = program.run_decompositions
    left_out = False

    def run_decompositions(table: Mapping[Any, Any] | None = None) -> torch.export.ExportedProgram:
        nonlocal left_out
        left_out = table is not None and _is_translatable(program, table)
        return program if left_out else decompose(table)

    program.run_decompositions = run_decompositions
    try:
        return _onnx_export(program, names, opset)
    except (OnnxExporterError, RuntimeError) as error:
        if not left_out:
            raise ExportError(f"torch.onnx.export: {_reason(error)}") from error
    program.run_decompositions = decompose
    try:
        return _onnx_export(program, names, opset)
    except (OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"torch.onnx.export: {_reason(error)}") from error


def _onnx_export(program: torch.export.ExportedProgram, names: _Names, opset: int) -> Any:
    import torch

    return torch.onnx.export(
        program,
        opset_version=opset,
        input_names=names.inputs,
        output_names=names.outputs,
        dynamic_shapes=names.axes,
        dynamo=True,
        verbose=False,
        optimize=True,
    )


def _is_translatable(program: torch.export.ExportedProgram, table: Mapping[Any, Any]) -> bool:
    """Whether a program is one flat graph of functional operators, none of which the table would replace."""
    import torch

    # batch_norm is decomposed by torch.export itself, so that no table lists it.
    always_decomposed = {torch.ops.aten.batch_norm.default}
    if program.graph_signature.buffers_to_mutate or len(list(program.graph_module.modules())) > 1:
        return False
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - what fx graphs hold
            continue
        if node.target in table or node.target in always_decomposed or node.target._schema.is_mutable:  # noqa: SLF001 - the only place that says so
            return False
    return True


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
    return tuple({axis: dims[name] for axis, name in axes.items()} for axes in _axis_names(interface, names))


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


def _axis_names(interface: Interface, names: Sequence[str]) -> tuple[dict[int, str], ...]:
    """Return for each input, in order, its dynamic axes and the dimension each stands for."""
    dynamic = {each.name for each in interface.dimensions if len(allowed(each)) > 1}
    shapes = {spec.name: spec.shape for spec in interface.inputs}
    return tuple(
        {axis: size for axis, size in enumerate(shapes[name]) if isinstance(size, str) and size in dynamic}
        for name in names
    )


def _first_uses(axes: tuple[dict[int, str], ...]) -> tuple[dict[int, str], ...]:
    """Keep each dimension where it is first used: one axis names them all, and the exporter warns of a second."""
    used: set[str] = set()
    kept = []
    for names in axes:
        kept.append({axis: name for axis, name in names.items() if name not in used})
        used.update(names.values())
    return tuple(kept)


def _is_external(module: Any, options: OnnxOptions) -> bool:
    if options.external_data is not None:
        return options.external_data
    size_bytes: int = sum(tensor.nbytes for tensor in module.state_dict().values())
    return size_bytes > canonical.EXTERNAL_DATA_BYTES


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the exported model: {error}") from error


def _reason(error: BaseException) -> str:
    """Return the innermost cause's words: exporters wrap what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:4]) or type(error).__name__


def _hint(error: Exception) -> str | None:
    if "onstraint" in str(error):
        return (
            "the network fixes or relates these sizes: change `dimensions` (min, max, multiple_of) to what it accepts"
        )
    return None
