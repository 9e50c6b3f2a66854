"""What was exported: artifacts, by name."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - as above
from typing import Any


@dataclass(frozen=True, slots=True)
class Written:
    """What a format wrote. `files[0]` is the one to open, maybe a folder; `facts` (JSON values) go into the manifest.

    `explanations` say by node where in the network's source it comes from; they stay in the report. `program` describes
    what was exported (see `pipeline.formats.program`), for the audit; empty where the format has none. Its `captured`
    says whether that is the program as torch.export captures it, not one decomposed further. `refused` says why what the
    format tries first did not give this file; empty where it did.
    """

    files: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    explanations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    program: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What was written under a name: in which format, and what it was made from: another artifact, or the network (None)."""

    name: str
    format: str
    written: Written
    made_from: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files; the first is the one to open."""
        return self.written.files

    @property
    def size_bytes(self) -> int:
        """What its files take together, those in folders included."""
        inside = (each for file in self.files for each in (file.rglob("*") if file.is_dir() else (file,)))
        return sum(each.stat().st_size for each in inside if each.is_file())
