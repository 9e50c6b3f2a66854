"""From a captured program to ONNX, by torch.onnx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.formats import refusal
from pipeline.formats.capture import axis_names
from pipeline.formats.onnx import shortcuts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the config calls things: inputs and outputs in the program's order, and the dynamic axes of each input; and whether to optimise."""

    inputs: list[str]
    outputs: list[str]
    axes: tuple[dict[int, str], ...]
    optimize: bool


def translate(
    program: torch.export.ExportedProgram,
    prepared: Forward,
    interface: Interface,
    opset: int,
    *,
    in_full: bool = False,
    optimize: bool = True,
) -> Any:
    """Return a captured program as torch's ONNXProgram, under the config's names.

    `in_full` leaves out no pass of torch's before the translation, and not `optimize` all those behind it.

    Raises:
        ExportError: torch.onnx.export refuses it.
    """
    from torch.onnx import OnnxExporterError

    axes = _first_uses(axis_names(interface, prepared.names))
    names = _Wanted(list(prepared.names), list(interface.outputs), axes, optimize)
    if not in_full:
        return _translated(program, prepared, names, opset)
    try:
        return _onnx_export(program, names, opset)
    except (OnnxExporterError, RuntimeError) as error:
        raise refusal.refused("torch.onnx.export", error, prepared.module, program) from error


def _translated(program: torch.export.ExportedProgram, prepared: Forward, names: _Wanted, opset: int) -> Any:
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
            raise refusal.refused("torch.onnx.export", error, prepared.module, program) from error
    program.run_decompositions = decompose
    try:
        return _onnx_export(program, names, opset)
    except (OnnxExporterError, RuntimeError) as error:
        raise refusal.refused("torch.onnx.export", error, prepared.module, program) from error


def _onnx_export(program: torch.export.ExportedProgram, names: _Wanted, opset: int) -> Any:
    import torch

    with shortcuts.taken():
        return torch.onnx.export(
            program,
            opset_version=opset,
            input_names=names.inputs,
            output_names=names.outputs,
            dynamic_shapes=names.axes,
            dynamo=True,
            verbose=False,
            optimize=names.optimize,
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


def _first_uses(axes: tuple[dict[int, str], ...]) -> tuple[dict[int, str], ...]:
    """Keep each dimension where it is first used: one axis names them all, and the exporter warns of a second."""
    used: set[str] = set()
    kept = []
    for names in axes:
        kept.append({axis: name for axis, name in names.items() if name not in used})
        used.update(names.values())
    return tuple(kept)
