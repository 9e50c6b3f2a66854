"""What lies in the folders that exports write to: `<name>/<version>/` with `latest`, and how the last run of each name went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from pipeline.release import bundle, standalone
from pipeline.report import log
from pipeline.storage.documents import Part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BESIDE = {bundle.FAILED, bundle.CRASHES}


class Run(Part):
    """How the last run of a name went, of what run.json says; `release` is the version that it made or found."""

    model_config = ConfigDict(extra="ignore")

    started_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?\+00:00$")
    exit_code: int
    release: str | None = None
    error: str | None = None

    @property
    def began(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.started_at)

    @staticmethod
    def of(folder: Path) -> Run | None:
        """Return the last run of a name; None where nothing tells."""
        try:
            found = Run.read(folder / log.RUN)
            datetime.fromisoformat(found.started_at)
        except (OSError, ValueError):
            return None
        return found


@dataclass(frozen=True, slots=True)
class Named:
    """The folder of one name, with how its last run went, its `latest` and its versions."""

    path: Path
    run: Run | None
    latest: str | None
    versions: tuple[str, ...]

    @staticmethod
    def of(path: Path) -> Named | None:
        """Read a folder; None for one that is none."""
        if not bundle.NAME.fullmatch(path.name) or path.is_symlink():
            return None
        versions = tuple(sorted(each.name for each in _folders(path) if (each / standalone.MANIFEST).is_file()))
        found = Named(path, Run.of(path), latest_of(path), versions)
        is_one = found.versions or found.run or found.latest or (path / bundle.FAILED / standalone.REPORT).is_dir()
        return found if is_one else None

    @property
    def has_failed(self) -> bool:
        """Whether what is in `failed` is of the last run, or nobody knows what is."""
        return self.run.exit_code != 0 if self.run else not self.versions


def latest_of(folder: Path) -> str | None:
    """Return the version that `latest` names; None where there is no such file, or it names none."""
    if not (folder / bundle.LATEST).is_file():
        return None
    try:
        version = bundle.stated_latest(folder / bundle.LATEST)
    except OSError:
        return None
    return version if bundle.NAME.fullmatch(version) else None


def named(root: Path) -> Iterator[Named]:
    """Yield the folder of each name below one that an export wrote to, in order.

    Raises OSError where it cannot be read.
    """
    for each in _folders(root):
        if found := Named.of(each):
            yield found


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder in order, but for links, hidden ones and those that are no release."""
    return sorted(
        each
        for each in path.iterdir()
        if bundle.NAME.fullmatch(each.name) and each.name not in _BESIDE and each.is_dir() and not each.is_symlink()
    )
