"""Hold a release against an older one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.errors import InputError, command
from pipeline.release import bundle, standalone
from pipeline.release.manifest import Manifest
from pipeline.report import compare as comparing
from pipeline.report import document
from pipeline.storage.documents import described

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.report.compare import Comparison, Recorded


def compare(base: Path, candidate: Path, *, margin: float, force: bool) -> Comparison:
    """Hold a release against an older one by what both recorded.

    Raises:
        WeighbridgeError: one is no release, they were timed on different machines, or have nothing in common.
    """
    releases = (bundle.find(base), bundle.find(candidate))
    return comparing.compare(*map(_recorded, releases), margin=margin, force=force)


def _recorded(release: Path) -> Recorded:
    """Return what a release recorded of itself."""
    report = document.read(release)
    try:
        manifest = Manifest.model_validate_json((release / standalone.MANIFEST).read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{release / standalone.MANIFEST} is not as this version writes one: {described(error)}",
            hint=f"what is wrong with it: {command('verify', release)}",
        ) from None
    sizes_bytes = {file.path: file.size_bytes for file in manifest.files}
    models = {
        model.name or model.format: sum(sizes_bytes[name] for name in set(model.files)) for model in manifest.models
    }
    return comparing.Recorded(report, models, (manifest.weights, manifest.tools))
