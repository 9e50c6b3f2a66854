"""What came of an export on a node takes its place below `--out`, as if it had been made here."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, WeighbridgeError
from pipeline.release import arriving, bundle
from pipeline.report.log import RUN
from pipeline.run import up_to_date
from pipeline.run.export import Outcome
from pipeline.storage.store import atomic_write, canonical_json, lock, private_directory, publish
from pipeline.worker.job import Failure, raised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.fleet.ray.task import End, Piece
    from pipeline.fleet.ray.travel import Pack
    from pipeline.run.plan import Plan, Settings


@dataclass(slots=True)
class Delivery:
    """Files of one config as they arrive, in a private directory that becomes nothing unless all of it is there."""

    planned: Plan
    settings: Settings
    why: str
    _folder: Path | None = None
    _held: ExitStack = field(default_factory=ExitStack)

    def add(self, piece: Piece) -> None:
        """Take in a part of a file.

        Raises:
            InputError: it would lie elsewhere.
        """
        if self._folder is None:
            self._folder = self._held.enter_context(private_directory(self._place))
        parts = PurePosixPath(piece.name).parts
        if not parts or ".." in parts or PurePosixPath(piece.name).is_absolute():
            raise InputError(
                f"a node sent a file named {piece.name!r:.80}", hint="install the same version of it on every node"
            )
        file = self._folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as target:
            target.write(piece.content)

    def forget(self) -> None:
        """Remove what has arrived: its task is lost."""
        self._held.close()
        self._folder = None

    def finish(self, end: End, packed: Pack) -> Outcome | WeighbridgeError:
        """Give everything its place; return what the export came to.

        Raises:
            WeighbridgeError: it cannot be written here, or did not arrive whole.
        """
        told = Told(end, packed, self.settings.out)
        try:
            message = f"waiting for another process that exports {self.planned.config.name} to {self.settings.out}"
            with lock(self._place / ".run.lock", message):
                return self._failed(end, told) if "failure" in end.answer else self._released(end, told)
        finally:
            self.forget()

    @property
    def _place(self) -> Path:
        return self.settings.out / self.planned.config.name

    def _released(self, end: End, told: Told) -> Outcome:
        assert self._folder is not None  # noqa: S101 - a release has files
        shutil.rmtree(self._place / bundle.CRASHES, ignore_errors=True)
        release = arriving.adopt(self._folder / end.answer["release"], self._place, self.planned.sign)
        decided = {
            "benchmark": "yes" if self.settings.benchmark else "left out",
            "signing key": self.planned.signed_by,
        }
        up_to_date.remember(self.settings.out, self.planned.config.name, end.answer["parts"] | decided, release)
        self._log(told, release=release.name, why=self.why)
        return Outcome(release, up_to_date=False, why=self.why)

    def _failed(self, end: End, told: Told) -> WeighbridgeError:
        failure = {key: told.here(value) if value else value for key, value in end.answer["failure"].items()}
        if self._folder is not None:
            shutil.rmtree(self._place / bundle.CRASHES, ignore_errors=True)
            for each in (bundle.FAILED, bundle.CRASHES):
                if (self._folder / each).is_dir():
                    publish(self._folder / each, self._place / each, replace=True)
            self._log(told)
        return raised(Failure(**failure), self.planned.config.name)

    def _log(self, told: Told, **facts: str) -> None:
        if self._folder is None or not (self._folder / RUN).is_file():
            return
        log: dict[str, Any] = json.loads(told.here((self._folder / RUN).read_text(encoding="utf-8")))
        atomic_write(self._place / RUN, canonical_json(log | facts))


@dataclass(frozen=True, slots=True)
class Told:
    """What a node says in words, with the folders that it means here."""

    end: End
    packed: Pack
    out: Path

    def here(self, text: str) -> str:
        """Return a text with folders of this machine in place of the node's."""
        for there, here in self._pairs().items():
            text = text.replace(there, here)
        return text

    def _pairs(self) -> Mapping[str, str]:
        if not self.end.root:
            return {}
        directory = "" if self.packed.directory == "." else f"{self.packed.directory}/"
        return {
            self.end.out: str(self.out),
            f"{self.end.root}/{directory}": "",
            f"{self.end.root}/": f"{self.packed.root}/",
        }
