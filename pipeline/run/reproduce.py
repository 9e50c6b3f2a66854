"""Build a config a second time, and compare every byte."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import GateError
from pipeline.release import bundle
from pipeline.run.export import export
from pipeline.storage.store import private_directory

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.run.plan import Settings


def reproduce(path: Path, settings: Settings, release: Path) -> tuple[str, ...]:
    """Build a config again, in another directory and without timing it; return the files that came out the same.

    Raises:
        GateError: a file outside `report/` came out with other bytes; it is named.
    """
    with private_directory(settings.out) as elsewhere:
        again = export(path, replace(settings, out=elsewhere, rebuild=True, benchmark=False)).release
        first, second = bundle.file_digests(release), bundle.file_digests(again)
    if differing := sorted(name for name in first | second if first.get(name) != second.get(name)):
        raise GateError(
            f"{path} is not reproducible: a second build gave other bytes for {', '.join(differing)}",
            hint="look for what depends on time, order or chance in the network's code, or in an exporter of another package",
        )
    return tuple(sorted(first))
