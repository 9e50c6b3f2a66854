"""ExecuTorch, as the table of formats has it. What it takes to write or to look into a file is imported when somebody does."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.formats.executorch.options import ExecuTorchOptions
from pipeline.formats.format import Format
from pipeline.weights import executorch_header, files
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, FromNetwork, Options, Signature

_NOT_AUDITED = "nothing here reads its operators"


def _export(origin: FromNetwork, options: Options) -> Written:
    from pipeline.formats.executorch.export import export

    return export(origin, options)


def _require_safe(path: Path, _beside: Sequence[str]) -> None:
    """Check where its parts lie. What its plan does nobody can tell from its bytes: that is what `is_native` is for."""
    with files.mapped(path) as data:
        executorch_header.read(data, path.name)


def _signature(path: Path) -> Signature:
    from pipeline.formats.executorch.runtime import signature

    return signature(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    from pipeline.formats import share

    return share.audit([path], subject.state, _NOT_AUDITED, share.CHANNELS_LAST)


EXECUTORCH = Format(
    name="executorch",
    summary="an ExecuTorch program for phones, boards and other small machines",
    options=ExecuTorchOptions,
    file="model.pte",
    export=_export,
    distributions=("torch", "executorch", "torchao"),
    modules=("torch", "torch.export._trace"),
    probe=lambda: None if find_spec("executorch") else "executorch is not installed",
    install="weighbridge[executorch]",
    kind=Kind.EXECUTORCH,
    # Of 600 programs with a few bytes changed, 13 aborted and one broke into other memory, with all the runtime's checks on (1.5.1);
    # and a program may hand what it brings to other delegates that are built in, compiled models among it.
    is_native=True,
    native_as="a program whose runtime follows it without checking all of it",
    require_safe=_require_safe,
    read_signature=_signature,
    audit=_audit,
    card="ExecuTorch's runtime",
    library="executorch",
)
