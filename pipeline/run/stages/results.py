"""What the stages of a run add to what is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.benchmark.document import Benchmark
    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Case
    from pipeline.parity.candidate import Names
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import Audit
    from pipeline.parity.jobs import Rehearsed
    from pipeline.parity.prove import Proof
    from pipeline.parity.trained import Agreement
    from pipeline.rebuild.reference import Recording


@dataclass(frozen=True, slots=True)
class Inputs:
    """Every case, those that were recorded with the trained network last, and the recording.

    With preprocessing in front of the network, recorded inputs are no cases.
    """

    cases: tuple[Case, ...]
    recording: Recording | None = None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What is known of the rebuilt network, and how it agrees with a recording."""

    facts: Rehearsed
    agreement: Agreement | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noted of it."""
        return (*self.facts.contradictions, *self.facts.notes)


@dataclass(frozen=True, slots=True)
class Exported:
    """The artifacts that were written, and why others could not be, by their names."""

    artifacts: tuple[Artifact, ...]
    refusals: Mapping[str, str]

    def named(self, name: str | None) -> Artifact | None:
        """Return an artifact, None if there is none of this name."""
        return next((each for each in self.artifacts if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Proven:
    """Every backend's proof and every artifact's audit, passed or not.

    `names` holds, by variant, what a candidate's file calls inputs and outputs.
    """

    proofs: tuple[Proof, ...]
    audits: Mapping[str, Audit]
    names: Mapping[str, Names] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether what artifacts give is good enough, by their names; only of those that a gate asks it of and a backend proved."""

    accuracies: Mapping[str, Accuracy]

    def fails(self, artifact: str | None) -> bool:
        """Whether an artifact was not shown to be good enough."""
        found = self.accuracies.get(artifact or "")
        return found is not None and found.verdict != "pass"


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured, as benchmark.json has it; no sizes if nobody wanted to wait for it."""

    benchmark: Benchmark


@dataclass(frozen=True, slots=True)
class Released:
    """Where the release lies."""

    path: Path
