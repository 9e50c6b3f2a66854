"""OpenVINO, as the table of formats has it. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING

from pipeline.formats.format import Format, FromArtifact, Options

if TYPE_CHECKING:
    from pipeline.formats.artifact import Written


class OpenvinoOptions(Options):
    """Options of OpenVINO's files: none yet."""


def _probe() -> str | None:
    return None if util.find_spec("openvino") else "openvino is not installed"


def _derive(origin: FromArtifact, options: Options) -> Written:
    from pipeline.formats.openvino.export import derive

    return derive(origin, options)


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
    card="OpenVINO",
    library="openvino",
)
