"""Write reports: again for a release, or of a benchmark that writes no release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError
from pipeline.release import standalone
from pipeline.report import document, markdown
from pipeline.run.stages import reporting
from pipeline.storage.store import atomic_write, disk_errors, private_directory
from pipeline.weights.files import digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.report.document import Documents


def rewrite(release: Path) -> Path:
    """Write the pages of a release's report again, from its documents; return the HTML page, or the Markdown one."""
    folder = release / standalone.REPORT
    _require_no_links(folder)
    found = document.read(release)
    pages = reporting.pages(release.parent.name, found)
    with disk_errors(folder):
        for name, text in pages.items():
            atomic_write(folder / name, text.encode())
        sums = {name: digest(folder / name) for name in standalone.list_files(folder) if name != standalone.SUMS}
        atomic_write(folder / standalone.SUMS, standalone.format_sums(sums).encode())
    return folder / _page(pages)


def make_folder(folder: Path) -> None:
    """Make a folder to write to later, so that a place that cannot be written to is told before the work is done.

    Raises:
        WeighbridgeError: it cannot be made.
    """
    with private_directory(folder):
        pass


def write(name: str, documents: Documents, folder: Path) -> Path:
    """Write what a benchmark measured into `folder` as JSON and as pages; return the page to open.

    Raises:
        WeighbridgeError: the folder cannot be written to.
    """
    pages = reporting.pages(name, documents)
    texts = {f"{key}.json": json.dumps(each, ensure_ascii=False) for key, each in documents.to_json().items()}
    with disk_errors(folder):
        for file, text in {**texts, **pages}.items():
            atomic_write(folder / file, text.encode())
    markdown.summarise(pages["report.md"])
    return folder / _page(pages)


def _page(pages: Mapping[str, str]) -> str:
    return "report.html" if "report.html" in pages else "report.md"


def _require_no_links(folder: Path) -> None:
    """Raise UnsafeError for a folder to write to that leads somewhere else."""
    linked = next((each for each in (folder, *folder.rglob("*")) if each.is_symlink()), None)
    if linked is not None:
        raise UnsafeError(f"{linked} is a link: what is written there would go elsewhere", hint="remove it")
