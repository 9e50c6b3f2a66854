"""What a benchmark asks of a worker beside the calls that it times."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from pipeline.benchmark import roofline
from pipeline.worker.job import Context, Request


class MeasureRoofline(Request[dict[str, float]]):
    """Return what this machine reaches at best (see `pipeline.benchmark.roofline`)."""

    seconds: float

    def run(self, _: Context) -> dict[str, float]:
        """Multiply and copy."""
        return roofline.measure(self.seconds)


class CountOperations(Request[dict[str, JsonValue]]):
    """Return the operations of an ONNX file at some shapes of its inputs (see `pipeline.formats.onnx.counts`)."""

    file: Path
    inputs: dict[str, dict[str, list[int]]]

    def run(self, _: Context) -> dict[str, JsonValue]:
        """Walk the graph."""
        from pipeline.formats.onnx import counts

        return counts.count(self.file, self.inputs)
