"""Exported programs, as the table of formats has them. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats.format import Format
from pipeline.formats.pt2.options import Pt2Options
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, FromNetwork, Options, Signature


def _export(origin: FromNetwork, options: Options) -> Written:
    from pipeline.formats.pt2.export import export

    return export(origin, options)


def _require_safe(path: Path, _beside: Sequence[str]) -> None:
    from pipeline.formats.pt2.safety import require_inert

    require_inert(path)


def _signature(path: Path) -> Signature:
    from pipeline.formats.pt2.audit import signature

    return signature(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    from pipeline.formats.pt2.audit import audit

    return audit(path, subject)


PT2 = Format(
    name="pt2",
    summary="a program of torch.export, for torch.export.load and what is built on it",
    options=Pt2Options,
    file="model.pt2",
    export=_export,
    distributions=("torch",),
    kind=Kind.EXPORTED_PROGRAM,
    require_safe=_require_safe,
    runs_code=True,
    read_signature=_signature,
    audit=_audit,
    card="torch.export.load",
)
