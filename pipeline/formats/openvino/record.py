"""OpenVINO, as the table of formats has it. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError
from pipeline.formats.format import Format, FromArtifact, Options, Triton
from pipeline.weights import openvino
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, Signature


class OpenvinoOptions(Options):
    """Options of OpenVINO's files: none yet."""


def _probe() -> str | None:
    return None if util.find_spec("openvino") else "openvino is not installed"


def _derive(origin: FromArtifact, options: Options) -> Written:
    from pipeline.formats.openvino.export import derive

    return derive(origin, options)


def _require_safe(path: Path, beside: Sequence[str]) -> None:
    """Refuse a file whose constants lie in anything but the files that may lie beside it."""
    for each in openvino.require_confined(path):
        if each.name not in beside:
            raise UnsafeError(
                f"{path.name} would read {each.name!r:.120}, which is no file of the release", hint="do not open it"
            )


def _signature(path: Path) -> Signature:
    from pipeline.formats.openvino.graph import signature

    return signature(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    from pipeline.formats.openvino.audit import audit

    return audit(path, subject)


OPENVINO = Format(
    name="openvino",
    summary="OpenVINO's intermediate representation, made from an ONNX artifact",
    options=OpenvinoOptions,
    file="model.xml",
    derive=_derive,
    derived_from="onnx",
    distributions=("openvino",),
    modules=("pipeline.formats.openvino.library:load",),
    probe=_probe,
    install="weighbridge[openvino]",
    kind=Kind.OPENVINO,
    require_safe=_require_safe,
    beside=openvino.require_confined,
    read_signature=_signature,
    audit=_audit,
    # It finds the .bin by the name of the .xml, and with a max_batch_size refuses calls of fewer rows (ENABLE_BATCH_PADDING in its README).
    triton=Triton(
        "openvino",
        "model.xml",
        is_backend=True,
        batches=False,
        note="Triton's backend lets OpenVINO choose the precision: on a processor with bfloat16 it computes in that, and not as proven",
    ),
    card="OpenVINO",
    library="openvino",
)
