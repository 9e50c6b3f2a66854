"""OpenVINO's intermediate representation, read by OpenVINO from an ONNX file and written with its weights as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.formats.artifact import Written
from pipeline.formats.openvino import canonical, library

if TYPE_CHECKING:
    from pipeline.formats.format import FromArtifact, Options

_SHOWN = 300
_WHERE = ("Exception from", "Check '", "While validating", "FrontEnd API failed")
_LEAVE_OUT = "leave `openvino` out of `exports`"


def derive(origin: FromArtifact, _: Options) -> Written:
    """Write `<name>.xml` and `<name>.bin`, in the precision that the ONNX file has.

    Raises:
        ExportError: OpenVINO has no translation of an operator, or changed the names of inputs or outputs.
    """
    openvino = library.load()
    try:
        model = openvino.Core().read_model(str(origin.artifact.files[0]))
        _check_names(model, origin)
        canonical.say_who(model, origin.identity)
        # By default it would round the weights to float16.
        openvino.save_model(model, str(origin.target), compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"openvino: {reason(error)}", hint=_LEAVE_OUT) from error
    canonical.rename(origin.target)
    files = (origin.target, origin.target.with_suffix(".bin"))
    source = origin.artifact.written
    precision = {"precision": source.facts["precision"]} if "precision" in source.facts else {}
    return Written(files, {"layers": len(model.get_ops()), **precision}, (), source.explanations, source.program)


def reason(error: RuntimeError) -> str:
    """Return the line of one of OpenVINO's messages that says what is wrong; the others say where in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    listed = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]  # what a conversion lacks
    said = listed or [line for line in lines if line and not line.startswith(_WHERE)]
    return (said[0] if said else " ".join(lines))[:_SHOWN] or type(error).__name__


def _check_names(model: Any, origin: FromArtifact) -> None:
    """Hold what the model takes and gives against the config: both are found by name alone."""
    for what, ports, names in (
        ("inputs", model.inputs, [each.name for each in origin.interface.inputs]),
        ("outputs", model.outputs, list(origin.interface.outputs)),
    ):
        held = [name for port in ports for name in port.get_names()]
        if missing := [name for name in names if name not in held]:
            raise ExportError(
                f"openvino has no {what} {', '.join(missing)} in what it made of {origin.artifact.name}: it has {', '.join(held)}",
                hint=_LEAVE_OUT,
            )
