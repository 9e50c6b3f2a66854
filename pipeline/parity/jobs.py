"""What parity asks of a worker beside running a backend: everything here runs in the child process."""

from __future__ import annotations

import gc
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pipeline.errors import ExportError, InputError
from pipeline.formats.format import AuditSubject, CulpritSearch, FromNetwork
from pipeline.formats.table import formats
from pipeline.interface import Interface
from pipeline.rebuild.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

AUDIT = "pipeline.parity.jobs:audit"
SIGNATURE = "pipeline.parity.jobs:signature"
CULPRIT = "pipeline.parity.jobs:culprit"


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
    from pipeline.rebuild import model

    module = model.load(TypeAdapter(Network).validate_python(network)).module
    state = arrays_of(module)

    @cache
    def captured() -> tuple[Mapping[str, Any] | None, str | None]:
        known = [each["program"] for each in files if each["program"] and each["program"].get("captured")]
        return (known[0], None) if known else _captured(module, interface, examples)

    found = []
    for each in files:
        audit_file = formats()[each["format"]].audit
        if audit_file is None:
            raise InputError(f"{each['format']} files cannot be audited")
        found.append(dict(audit_file(Path(each["file"]), AuditSubject(state, each["program"], captured))))
    return found


def signature(format: str, file: str) -> dict[str, Any]:  # noqa: A002 - the name the config uses
    """Return what a file takes and returns: [name, numpy dtype, shape] of inputs and outputs (see `Signature`).

    Raises:
        InputError: the file cannot be read as `format`.
    """
    read_signature = formats()[format].read_signature
    if read_signature is None:
        raise InputError(f"what a {format} file takes and gives cannot be read from it")
    return asdict(read_signature(Path(file)))


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """Return a network's state dict, and its buffers that are not in it, as arrays."""
    from pipeline.rebuild import calling

    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: calling.array_from(tensor) for name, tensor in tensors.items()}


def _captured(
    module: nn.Module, interface: dict[str, Any], examples: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the network's program as torch.export captures it, or None and why not."""
    from pipeline.formats import program
    from pipeline.formats.onnx.export import captured

    origin = FromNetwork(module, TypeAdapter(Interface).validate_python(interface), examples, Path(), {})
    try:
        return program.describe(captured(origin)), None
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
    """Find where a file's error begins, and write its reproduction into `folder`, as far as its format can.

    `candidate` holds the `file` with its `format`, the `options` it is run with, the library of its `custom_ops` if any, and the
    names of its inputs and outputs (see `pipeline.parity.candidate.Names`). Returns `pipeline.formats.format.Found`.
    """
    from pipeline.parity import budget
    from pipeline.rebuild import model

    gc.disable()  # as in an export, and for the same reason: see `pipeline.worker.jobs.export`
    find = formats()[candidate["format"]].find_culprit
    if find is None:
        raise InputError(f"a culprit cannot be looked for in {candidate['format']} files")
    library = candidate["custom_ops"]
    wanted = CulpritSearch(
        module=model.load(TypeAdapter(Network).validate_python(network)).module,
        interface=TypeAdapter(Interface).validate_python(interface),
        examples=examples,
        inputs=inputs,
        file=Path(candidate["file"]),
        names=candidate["inputs"],
        outputs=candidate["outputs"],
        options=candidate["options"],
        custom_ops=Path(library) if library else None,
        floors=budget.floors,
        folder=Path(folder),
    )
    found = find(wanted)
    return {"culprit": found.culprit, "problem": found.problem, "program": found.program and dict(found.program)}
