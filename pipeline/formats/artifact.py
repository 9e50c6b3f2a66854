"""What was exported."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - as above
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """What an exporter wrote. `files[0]` is the one to open; `facts` (JSON values) go into the manifest.

    `explanations` say by node where in the network's source it comes from; they stay in the report. `program` describes
    what was exported (see `pipeline.formats.program`), for the audit; empty where the exporter has none. Its `captured`
    says whether that is the program as torch.export captures it, not one decomposed further.
    """

    format: str
    files: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    explanations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    program: Mapping[str, Any] = field(default_factory=dict)
