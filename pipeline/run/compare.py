"""Hold a release against an older one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.benchmark import compare as comparing
from pipeline.release import bundle, standalone
from pipeline.report import document

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.benchmark.compare import Comparison


def compare(base: Path, candidate_: Path, *, margin: float, force: bool) -> Comparison:
    """Hold a release against an older one by what both recorded.

    Raises:
        WeighbridgeError: one is no release, they were timed on different machines, or have nothing in common.
    """
    releases = (bundle.find(base), bundle.find(candidate_))
    with document.as_stated(candidate_):
        documents = [document.read(release) | {"manifest": standalone.read_manifest(release)} for release in releases]
        return comparing.compare(*documents, margin=margin, force=force)
