"""What an exporter is: a frozen record of functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Arrays, Interface


class Options(BaseModel):
    """Options common to all exporters."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Job:
    """One export: the network in eval mode, what goes in and out of it, example inputs, and the folder to write into.

    `identity` (name, weights digest) goes into the file's own metadata.
    """

    module: nn.Module
    interface: Interface
    examples: Arrays
    folder: Path
    identity: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Exporter:
    """A file format. `export` writes into the job's folder and raises `ExportError` with the exporter's own reason."""

    format: str
    summary: str
    options: type[Options]
    export: Callable[[Job, Options], Artifact]
