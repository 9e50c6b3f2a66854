"""As much of a release's documents as a table of many shows, whichever version wrote the rest of them.

A report is not signed and may be a stranger's: what is read has its type, and texts are those of a table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from pipeline.benchmark.machine import Machine  # noqa: TC001 - pydantic evaluates annotations in this module
from pipeline.report.league import Text  # noqa: TC001 - as above
from pipeline.storage.documents import Count, Many, Number, Part, Positive


class _Read(Part):
    model_config = ConfigDict(extra="ignore")


class Worst(_Read):
    """The finding that decided."""

    factor: Number
    limit: float


class Judged(_Read):
    """What became of a gate on accuracy."""

    verdict: Text


class ExportRead(_Read):
    """An artifact, written or refused."""

    name: Text = ""
    format: Text | None = None
    status: Literal["exported", "refused"]
    size_bytes: Count | None = None
    facts: dict[str, JsonValue] = Field(default={})
    accuracy: Judged | None = None
    reason: Text = ""

    @property
    def artifact(self) -> str:
        """Its name."""
        return self.name or self.format or ""


class BackendRead(_Read):
    """What became of a backend."""

    name: Text
    backend: Text
    required: bool
    status: Literal["pass", "fail", "unavailable", "crashed"]
    reason: Text | None = None
    worst: Worst | None = None


class ParityRead(_Read):
    """parity.json."""

    schema_version: Literal[1]
    exports: Many[ExportRead]
    backends: Many[BackendRead]
    silent: dict[Text, Text] = Field(default={})


class RowRead(_Read):
    """A backend's row at some sizes."""

    name: Text
    ratio: Positive | None
    interval: tuple[Positive, Positive] | None
    verdict: Text
    median_ms: Positive | None
    median_interval_ms: tuple[Positive, Positive] | None
    launches: Count


class SizeRead(_Read):
    """What was timed at some sizes."""

    sizes: dict[Text, Count]
    reference: Text
    control: Text
    can_tell: bool
    reason: Text
    rows: Many[RowRead]


class ArmRead(_Read):
    """Which backend a result is of."""

    variant: Text


class HeldRead(_Read):
    """What a backend holds."""

    name: Text
    peak_bytes_by_launch: Many[Annotated[int, Field(gt=-(2**63), lt=2**63)]]


class FiguresRead(_Read):
    """What else was measured."""

    backends: Many[HeldRead]


class BenchmarkRead(_Read):
    """benchmark.json."""

    schema_version: Literal[1]
    sizes: Many[SizeRead]
    machine: Machine | None
    arms: dict[Text, ArmRead] = Field(default={})
    figures: FiguresRead | None = None


class ChoiceRead(_Read):
    """What is recommended."""

    variant: Text
    backend: Text
    artifact: Text


class RecommendedRead(_Read):
    """recommended.json."""

    schema_version: Literal[1]
    digest: Text
    objective: Text
    processor: Text
    result: Text
    choice: ChoiceRead


class FileRead(_Read):
    """A file of a release."""

    path: str
    size_bytes: Count


class ModelRead(_Read):
    """A model of a release."""

    name: Text | None = None
    format: Text
    files: Many[str]
    facts: dict[str, JsonValue] = Field(default={})
    accuracy: dict[str, JsonValue] | None = None

    @property
    def artifact(self) -> str:
        """Its name."""
        return self.name or self.format


class ProvenRead(_Read):
    """A backend that was proven."""

    backend: Text
    artifact: Text | None = None
    format: Text | None = None
    verdict: Text


class WeightsRead(_Read):
    """The weights of a release."""

    sha256: Text


class ManifestRead(_Read):
    """manifest.json."""

    schema_version: Literal[1]
    name: Text
    version: Text
    digest: Text
    files: Many[FileRead]
    models: Many[ModelRead]
    backends: dict[Text, ProvenRead]
    tools: dict[Text, Text] = Field(default={})
    weights: WeightsRead
