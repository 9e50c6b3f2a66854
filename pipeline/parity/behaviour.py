"""What the pattern of passed and failed cases says: facts, and suspicions that an experiment must confirm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.parity.compare import REFUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.interface import Case
    from pipeline.parity.compare import Finding

RANDOM = (
    "two runs on the same input differ: the file draws random numbers (dropout in training mode, a random operator), "
    "or keeps a state between calls"
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """That a file holds only at one size of a dimension: every case of that size passes, and of every other some fail."""

    dimension: str
    size: int


def recognise(findings: Sequence[Finding], cases: Sequence[Case]) -> list[str]:
    """Return what the findings show by themselves: a random output, and how many cases are refused."""
    if any(finding.problem == RANDOM for finding in findings):
        return [RANDOM]
    refused = {finding.case for finding in findings if finding.problem and finding.problem.startswith(REFUSED)}
    return [f"refuses {len(refused)} of {len(cases)} cases"] if 0 < len(refused) < len(cases) else []


def suspected(findings: Sequence[Finding], cases: Sequence[Case]) -> list[Suspicion]:
    """Return what sizes the findings look specialised to. It is no more than a look: other things than sizes differ too."""
    failed = {finding.case for finding in findings if not finding.passed}
    found = []
    for dimension in sorted({name for case in cases for name in case.sizes}):
        wrong = {case.sizes[dimension] for case in cases if case.name in failed}
        right = {case.sizes[dimension] for case in cases} - wrong
        if len(right) == 1 and wrong:
            found.append(Suspicion(dimension, right.pop()))
    return found


def differs(again: Finding, before: Finding) -> bool:
    """Whether the same output of the same case came out differently."""
    same = (again.case, again.output) == (before.case, before.output)
    return same and (again.max_error, again.rms_error, again.got) != (before.max_error, before.rms_error, before.got)


def as_random(finding: Finding) -> Finding:
    """Return the finding with the words for a random output."""
    return replace(finding, problem=RANDOM)
