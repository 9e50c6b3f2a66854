"""Every exporter, one line each; other distributions add theirs through the entry point group `weighbridge.exporters`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pipeline.formats.onnx.export import ONNX
from pipeline.formats.torchscript.export import TORCHSCRIPT

if TYPE_CHECKING:
    from pipeline.formats.format import Exporter

BUILT_IN = (TORCHSCRIPT, ONNX)


@cache
def exporters() -> dict[str, Exporter]:
    """Return every exporter by the format it writes."""
    found = {exporter.format: exporter for exporter in BUILT_IN}
    for entry in entry_points(group="weighbridge.exporters"):
        exporter = entry.load()
        found.setdefault(exporter.format, exporter)
    return found
