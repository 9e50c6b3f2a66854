"""TorchScript, as the table of formats has it. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats.format import Format, Triton
from pipeline.formats.torchscript import safety
from pipeline.formats.torchscript.export import TorchScriptOptions, alternative, export
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.formats.format import AuditSubject, CulpritSearch, Found, Signature


def _signature(path: Path) -> Signature:
    from pipeline.formats.torchscript.audit import signature

    return signature(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    from pipeline.formats.torchscript.audit import audit

    return audit(path, subject)


def _find_culprit(wanted: CulpritSearch) -> Found:
    from pipeline.formats.torchscript.culprit import search

    return search(wanted)


TORCHSCRIPT = Format(
    name="torchscript",
    summary="a TorchScript archive for libtorch and torch.jit.load",
    options=TorchScriptOptions,
    file="model.torchscript",
    export=export,
    alternative=alternative,
    distributions=("torch",),
    kind=Kind.TORCHSCRIPT,
    require_safe=lambda path, _: safety.require_inert(path),
    runs_code=True,
    read_signature=_signature,
    audit=_audit,
    find_culprit=_find_culprit,
    triton=Triton("pytorch_libtorch", "model.pt", is_positional=True),
    card="libtorch",
)
