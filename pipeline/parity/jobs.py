"""What parity asks of a worker beside running a backend: everything here runs in the child process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pipeline.errors import ExportError, InputError
from pipeline.types import Interface, Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

AUDIT = "pipeline.parity.jobs:audit"


def audit(
    network: dict[str, Any],
    interface: dict[str, Any],
    examples: dict[str, Any],
    format: str,  # noqa: A002 - the name the config uses
    file: str,
    program: dict[str, Any] | None,
) -> dict[str, Any]:
    """Account for the constants and numbers of an exported file; return the audit as JSON values.

    Raises:
        InputError: the file cannot be read as `format`.
    """
    from pipeline import model
    from pipeline.parity import audit as auditing

    module = model.load(TypeAdapter(Network).validate_python(network)).module
    state = arrays_of(module)
    if format == "onnx":
        return auditing.audit_onnx(read_onnx(Path(file)), state, program)
    from pipeline.parity import scripted

    captured, reason = _captured(module, interface, examples)
    found = scripted.audit(scripted.read(Path(file)), state, captured)
    return found if reason is None else {**found, "unchecked": reason}


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """Return a network's state dict, and its buffers that are not in it, as arrays."""
    from pipeline import calling

    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: calling.array_from(tensor) for name, tensor in tensors.items()}


def read_onnx(path: Path) -> Any:
    """Return a graph with its weights; external data must lie beside it.

    Raises:
        InputError: it is no valid ONNX model, or its weights are missing or elsewhere.
    """
    from importlib import import_module

    import onnx

    from pipeline.parity.graph import Graph

    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        onnx.checker.check_model(str(path))
        return Graph(onnx.load(str(path)), path.parent)
    except (onnx.checker.ValidationError, decode_error, ValueError, OSError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{path.name} is not a valid ONNX model: {first}", hint="check it with: python -m onnx.checker FILE"
        ) from None


def _captured(
    module: nn.Module, interface: dict[str, Any], examples: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the network's program as torch.export captures it, or None and why not."""
    from pipeline.exporters import program
    from pipeline.exporters.exporter import Job
    from pipeline.exporters.onnx import captured

    job = Job(module, TypeAdapter(Interface).validate_python(interface), examples, Path(), {})
    try:
        return program.describe(captured(job)), None
    except ExportError as error:
        return None, error.message
