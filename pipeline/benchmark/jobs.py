"""What a benchmark asks of a worker beside the calls that it times."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from pipeline.benchmark import roofline
from pipeline.formats.table import formats
from pipeline.worker.job import Context, Request


class MeasureRoofline(Request[dict[str, float]]):
    """Return what this machine reaches at best (see `pipeline.benchmark.roofline`)."""

    seconds: float

    def run(self, _: Context) -> dict[str, float]:
        """Multiply and copy."""
        return roofline.measure(self.seconds)


class CountOperators(Request[dict[str, JsonValue] | None]):
    """Return what a file's format tells of its operators at some shapes of its inputs (see `pipeline.formats.format`)."""

    format: str
    file: Path
    inputs: dict[str, dict[str, list[int]]]

    def run(self, _: Context) -> dict[str, JsonValue] | None:
        """Look into the file; None where its format tells nothing."""
        count = formats()[self.format].count_operators
        return dict(count(self.file, self.inputs)) if count else None
