"""Every format, one line each; other distributions add theirs through the entry point group `weighbridge.formats`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pipeline.formats.aotinductor.record import AOTINDUCTOR
from pipeline.formats.executorch.record import EXECUTORCH
from pipeline.formats.onnx.record import ONNX
from pipeline.formats.openvino.record import OPENVINO
from pipeline.formats.pt2.record import PT2
from pipeline.formats.tensorrt.record import TENSORRT
from pipeline.formats.torchscript.record import TORCHSCRIPT

if TYPE_CHECKING:
    from pipeline.formats.format import Format
    from pipeline.weights.kinds import Kind

BUILT_IN = (
    TORCHSCRIPT,
    ONNX,
    PT2,
    AOTINDUCTOR,
    OPENVINO,
    EXECUTORCH,
    TENSORRT,
)


@cache
def formats() -> dict[str, Format]:
    """Return every format by name."""
    return {each.name: each for each in BUILT_IN} | {each.name: each for each, _ in _plugins()}


def entry_of(name: str) -> EntryPoint | None:
    """Return the entry point that brings a format, None for one of our own."""
    return next((entry for each, entry in _plugins() if each.name == name), None)


def of_kind(kind: Kind) -> Format | None:
    """Return the format of a file of some kind, None if there is none."""
    return next((each for each in formats().values() if each.kind is kind), None)


@cache
def _plugins() -> tuple[tuple[Format, EntryPoint], ...]:
    ours = {each.name for each in BUILT_IN}
    found = [(entry.load(), entry) for entry in entry_points(group="weighbridge.formats")]
    return tuple((each, entry) for each, entry in found if each.name not in ours)
