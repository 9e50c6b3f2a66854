"""TorchScript, as the table of formats has it. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats.format import Format, Triton
from pipeline.formats.torchscript.options import TorchScriptOptions, alternative
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, CulpritSearch, Found, FromNetwork, Options, Signature


def _export(origin: FromNetwork, options: Options) -> Written:
    from pipeline.formats.torchscript.export import export

    return export(origin, options)


def _require_safe(path: Path, _beside: Sequence[str]) -> None:
    from pipeline.formats.torchscript.safety import require_inert

    require_inert(path)


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
    export=_export,
    alternative=alternative,
    distributions=("torch",),
    kind=Kind.TORCHSCRIPT,
    require_safe=_require_safe,
    runs_code=True,
    read_signature=_signature,
    audit=_audit,
    find_culprit=_find_culprit,
    triton=Triton("pytorch_libtorch", "model.pt", is_positional=True),
    card="libtorch",
)
