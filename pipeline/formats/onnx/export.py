"""ONNX, through torch.export, or by torch.onnx's TorchScript-based exporter."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.formats import capture, forward, program, refusal
from pipeline.formats.artifact import Written
from pipeline.formats.deep import with_room
from pipeline.formats.onnx import canonical
from pipeline.formats.onnx.options import OnnxOptions
from pipeline.formats.onnx.trace import EXPORTER, trace
from pipeline.formats.onnx.translate import translate as translated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from pipeline.formats.format import FromNetwork, Options
    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface


_SHOWN_LINES, _SHOWN = 3, 300


@dataclass(frozen=True, slots=True)
class _Made:
    """A file in its canonical form, how it was made, and what the audit may know of it."""

    stripped: canonical.Stripped
    method: str
    program: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    refused: str = ""


def export(origin: FromNetwork, options: Options) -> Written:
    """Write an ONNX file, and `<name>.data` beside it where weights do not fit into it.

    Raises:
        ExportError: torch.export, torch.onnx.export or onnx.checker refuses the network.
    """
    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    made = with_room(origin.module, lambda: _made(origin, options))
    facts = {"method": made.method, "opset": options.opset, "external_data": len(made.stripped.files) > 1}
    return Written(made.stripped.files, facts, made.notes, made.stripped.nodes, made.program, made.refused)


def _made(origin: FromNetwork, options: OnnxOptions) -> _Made:
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    if options.method == "trace":
        return _checked(_traced(origin, prepared, options))
    try:
        return _exported(origin, prepared, options)
    except ExportError as error:
        if options.method == "export":
            raise
        return _second(origin, prepared, options, error)


def _second(origin: FromNetwork, prepared: Forward, options: OnnxOptions, first: ExportError) -> _Made:
    """Trace what cannot be exported, and say why."""
    try:
        made = _checked(_traced(origin, prepared, options))
    except ExportError as error:
        raise ExportError(f"{first.message}; {error.message}", hint=first.hint or error.hint) from first
    notes = (f"traced by {EXPORTER}, because of {first.message}", *made.notes)
    refused = first.message + (f" ({first.hint})" if first.hint else "")
    return _Made(made.stripped, made.method, made.program, notes, refused)


def _exported(origin: FromNetwork, prepared: Forward, options: OnnxOptions) -> _Made:
    """Export by torch.export; without torch's optimiser where that leaves a file which onnx.checker refuses."""
    made = _unchecked(origin, prepared, options)
    if not (problem := _removed_if_wrong(made)):
        return made
    plain = _checked(_unchecked(origin, prepared, options, optimize=False))
    note = f"torch.onnx's optimiser was left out: onnx.checker refuses what it made ({problem})"
    return replace(plain, notes=(note, *plain.notes))


def _unchecked(origin: FromNetwork, prepared: Forward, options: OnnxOptions, *, optimize: bool = True) -> _Made:
    captured, exported = _translated(prepared, origin.interface, options.opset, optimize=optimize)
    stripped = _write(exported, origin, external=_is_external(origin.module, options))
    values = program.as_values(exported.exported_program)
    return _Made(stripped, "export", values | {"captured": exported.exported_program.graph is captured.graph})


def _traced(origin: FromNetwork, prepared: Forward, options: OnnxOptions) -> _Made:
    folder = origin.target.parent / "raw"
    folder.mkdir()
    try:
        notes = trace(prepared, origin.interface, options.opset, folder / "model.onnx")
        if _is_external(origin.module, options):
            _move_weights_out(folder / "model.onnx")
        stripped = canonical.from_file(folder / "model.onnx", origin.target, identity=origin.identity)
    finally:
        shutil.rmtree(folder)
    return _Made(stripped, "trace", _program(prepared, origin.interface), notes)


def _program(prepared: Forward, interface: Interface) -> Mapping[str, Any]:
    """Return what the network computes, for the audit; empty where torch.export captures nothing of it."""
    try:
        return program.as_values(_captured(prepared, interface)) | {"captured": True}
    except ExportError:
        return {}


def captured(origin: FromNetwork) -> torch.export.ExportedProgram:
    """Return the network as torch.export captures it.

    Raises:
        ExportError: torch.export refuses it.
    """
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    return with_room(origin.module, lambda: _captured(prepared, origin.interface))


def _captured(prepared: Forward, interface: Interface) -> torch.export.ExportedProgram:
    try:
        return capture.named(prepared, interface)
    except ExportError:
        return capture.wide(prepared, interface)


def translate(origin: FromNetwork, opset: int) -> tuple[Any, tuple[str, ...]]:
    """Return the network as torch's ONNXProgram, with the exported program it was made from, and its inputs' names in order.

    Raises:
        ExportError: torch.export or torch.onnx.export refuses it.
    """
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    _, exported = with_room(origin.module, lambda: _translated(prepared, origin.interface, opset))
    return exported, prepared.names


def _translated(
    prepared: Forward, interface: Interface, opset: int, *, optimize: bool = True
) -> tuple[torch.export.ExportedProgram, Any]:
    """Return the network as captured and as translated, by the first of two captures with which both succeed.

    Raises:
        ExportError: neither is; the reason is the second's, which takes what the first does.
    """
    try:
        found = capture.named(prepared, interface)
        return found, translated(found, prepared, interface, opset, optimize=optimize)
    except ExportError as error:
        if not interface.dimensions or refusal.is_final(error):
            raise
    found = capture.wide(prepared, interface)
    return found, translated(found, prepared, interface, opset, in_full=True, optimize=optimize)


def _move_weights_out(file: Path) -> None:
    """Write a model again with its weights in one file beside it."""
    import onnx

    model = onnx.load(str(file))
    onnx.save_model(model, str(file), save_as_external_data=True, location=f"{file.name}.data", size_threshold=1024)


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


def _is_external(module: Any, options: OnnxOptions) -> bool:
    if options.external_data is not None:
        return options.external_data
    size_bytes: int = sum(tensor.nbytes for tensor in module.state_dict().values())
    return size_bytes > canonical.EXTERNAL_DATA_BYTES


def _checked(made: _Made) -> _Made:
    """Return what was made; raises ExportError if onnx.checker refuses it, and removes its files."""
    if problem := _removed_if_wrong(made):
        raise ExportError(f"onnx.checker refuses the exported model: {problem}", hint="leave `onnx` out of `exports`")
    return made


def _removed_if_wrong(made: _Made) -> str | None:
    """Return why onnx.checker refuses what was made, and remove its files; None if it does not."""
    import onnx

    try:
        onnx.checker.check_model(str(made.stripped.files[0]), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        for file in made.stripped.files:
            file.unlink()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:_SHOWN_LINES])[:_SHOWN] or type(error).__name__
    return None
