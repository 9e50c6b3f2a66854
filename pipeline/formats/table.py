"""Every format, one line each; other distributions add theirs through the entry point group `weighbridge.formats`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pipeline.formats.onnx.record import ONNX
from pipeline.formats.torchscript.record import TORCHSCRIPT

if TYPE_CHECKING:
    from pipeline.formats.format import Format
    from pipeline.weights.kinds import Kind

BUILT_IN = (TORCHSCRIPT, ONNX)


@cache
def formats() -> dict[str, Format]:
    """Return every format by name."""
    found = {each.name: each for each in BUILT_IN}
    for entry in entry_points(group="weighbridge.formats"):
        each = entry.load()
        found.setdefault(each.name, each)
    return found


def of_kind(kind: Kind) -> Format | None:
    """Return the format of a file of some kind, None if there is none."""
    return next((each for each in formats().values() if each.kind is kind), None)
