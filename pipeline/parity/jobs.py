"""What parity asks of a worker beside running a backend: everything here runs in the child process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pipeline.errors import ExportError, InputError
from pipeline.interface import Interface
from pipeline.rebuild.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

AUDIT = "pipeline.parity.jobs:audit"
SIGNATURE = "pipeline.parity.jobs:signature"
CULPRIT = "pipeline.parity.jobs:culprit"
CULPRIT_MODULE = "pipeline.parity.jobs:culprit_module"
_OPSET = 20


def audit(
    network: dict[str, Any],
    interface: dict[str, Any],
    examples: dict[str, Any],
    files: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Account for the constants and numbers of exported files; return the audit of each as JSON values.

    A file is `format`, `file` and `program` (None if its exporter states none; see `pipeline.interface.Artifact`). The network is
    loaded once for all, and captured only if none of the programs is the captured one.

    Raises:
        InputError: a file cannot be read as its format.
    """
    from pipeline.formats.onnx import audit as auditing
    from pipeline.formats.torchscript import audit as scripted
    from pipeline.rebuild import model

    module = model.load(TypeAdapter(Network).validate_python(network)).module
    state = arrays_of(module)
    found = []
    for each in files:
        path = Path(each["file"])
        if each["format"] == "onnx":
            found.append(auditing.audit_onnx(read_onnx(path), state, each["program"]))
            continue
        known = [other["program"] for other in files if other["program"] and other["program"].get("captured")]
        captured, reason = (known[0], None) if known else _captured(module, interface, examples)
        audited = scripted.audit(scripted.read(path), state, captured)
        found.append(audited if reason is None else {**audited, "unchecked": reason})
    return found


def signature(format: str, file: str) -> dict[str, Any]:  # noqa: A002 - the name the config uses
    """Return what a file takes and returns: [name, numpy dtype, shape] of inputs and outputs (see `Signature`).

    Raises:
        InputError: the file cannot be read as `format`.
    """
    if format == "torchscript":
        from pipeline.formats.torchscript import audit as scripted

        arguments = scripted.read(Path(file)).forward.schema.arguments[1:]
        return {"inputs": [[each.name, None, None] for each in arguments], "outputs": []}
    graph = read_onnx(Path(file)).model.graph
    constants = {each.name for each in graph.initializer}
    return {
        "inputs": [_declared(each) for each in graph.input if each.name not in constants],
        "outputs": [_declared(each) for each in graph.output],
    }


def _declared(value: Any) -> list[Any]:
    import onnx

    tensor = value.type.tensor_type
    sizes = [each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return [value.name, dtype, sizes if tensor.HasField("shape") else None]


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """Return a network's state dict, and its buffers that are not in it, as arrays."""
    from pipeline.rebuild import calling

    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: calling.array_from(tensor) for name, tensor in tensors.items()}


def read_onnx(path: Path, *, whole: bool = False) -> Any:
    """Return a graph with its constants; external data must lie beside it. `whole`: its model holds them as well.

    Raises:
        InputError: it is no valid ONNX model, or its weights are missing or elsewhere.
    """
    from importlib import import_module

    import onnx

    from pipeline.formats.onnx.graph import Graph

    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        onnx.checker.check_model(str(path))
        return Graph(onnx.load(str(path), load_external_data=whole), path.parent)
    except (onnx.checker.ValidationError, decode_error, ValueError, OSError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{path.name} is not a valid ONNX model: {first}", hint="check it with: python -m onnx.checker FILE"
        ) from None


def _captured(
    module: nn.Module, interface: dict[str, Any], examples: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the network's program as torch.export captures it, or None and why not."""
    from pipeline.formats import program
    from pipeline.formats.format import Job
    from pipeline.formats.onnx.export import captured

    job = Job(module, TypeAdapter(Interface).validate_python(interface), examples, Path(), {})
    try:
        return program.describe(captured(job)), None
    except ExportError as error:
        return None, error.message


def culprit(
    network: dict[str, Any],
    interface: dict[str, Any],
    examples: dict[str, Any],
    inputs: dict[str, Any],
    candidate: dict[str, Any],
    folder: str,
) -> dict[str, Any]:
    """Find the node of an ONNX file where its error begins, and write its reproduction into `folder`.

    `candidate` holds the `file`, the optimisation `level` to run it at, the library of its `custom_ops` if any, and the names
    of its inputs and outputs (see `pipeline.parity.candidate.Names`). Returns `culprit` (None if every value is within its
    budget at this optimisation level) and `program`, the outputs of the float32 program.

    Raises:
        ExportError: the network cannot be exported, so that there is nothing to compare step by step.
    """
    from pipeline.formats.onnx import culprit as searching
    from pipeline.rebuild import model

    gc.disable()  # as in an export, and for the same reason: see `pipeline.worker.jobs.export`
    module = model.load(TypeAdapter(Network).validate_python(network)).module
    known = searching.truths(module, TypeAdapter(Interface).validate_python(interface), examples, inputs, _OPSET)
    graph = read_onnx(Path(candidate["file"]), whole=True)
    library = candidate["custom_ops"]
    how = {"level": candidate["level"], "custom_ops": Path(library) if library else None}
    fed = {candidate["inputs"][name]: array for name, array in inputs.items()}
    known = known.renamed(candidate["outputs"])
    found = searching.find(graph, fed, known, **how)
    if found is not None and found.output in known.values:
        searching.write_reproduction(graph, found, fed, known, Path(folder), **how)
    return {"culprit": searching.as_json(found) if found else None, "program": dict(known.program_outputs)}


def culprit_module(
    network: dict[str, Any], interface: dict[str, Any], inputs: dict[str, Any], file: str
) -> dict[str, Any] | None:
    """Find the module of a TorchScript file where its error begins; None if every module that can be called agrees."""
    from pipeline.formats.torchscript import audit as scripted
    from pipeline.rebuild import model

    module = model.load(TypeAdapter(Network).validate_python(network)).module
    return scripted.culprit(
        module, scripted.read(Path(file)), TypeAdapter(Interface).validate_python(interface), inputs
    )
