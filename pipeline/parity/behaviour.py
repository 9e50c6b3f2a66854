"""What was baked into a file, recognised from where it is right and where it is wrong, and said in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.parity.compare import REFUSED
from pipeline.rebuild.cases import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.interface import Case
    from pipeline.parity.compare import Finding

RANDOM = (
    "two runs on the same input differ: the file draws random numbers (dropout in training mode, or a random operator)"
)


def recognise(findings: Sequence[Finding], cases: Sequence[Case]) -> list[str]:
    """Return what the pattern of passed and failed cases says was baked in; empty where it says nothing."""
    failed = {finding.case for finding in findings if not finding.passed}
    if any(finding.problem == RANDOM for finding in findings):
        return [RANDOM]
    return [*_sizes(failed, cases), *_branch(failed, cases), *_refusals(findings, cases)]


def differs(again: Finding, before: Finding) -> bool:
    """Whether the same output of the same case came out differently."""
    same = (again.case, again.output) == (before.case, before.output)
    return same and (again.max_error, again.rms_error, again.got) != (before.max_error, before.rms_error, before.got)


def as_random(finding: Finding) -> Finding:
    """Return the finding with the words for a random output."""
    return replace(finding, problem=RANDOM)


def _sizes(failed: set[str], cases: Sequence[Case]) -> Iterator[str]:
    """A dimension was specialised if every case of one size passes, and of every other size some fail."""
    for dimension in sorted({name for case in cases for name in case.sizes}):
        sizes = {case.sizes[dimension] for case in cases}
        wrong = {case.sizes[dimension] for case in cases if case.name in failed}
        right = sizes - wrong
        if len(right) == 1 and wrong:
            yield f"specialised to the size {dimension}={right.pop()}: it was traced or exported with that size and holds only there"


def _branch(failed: set[str], cases: Sequence[Case]) -> Iterator[str]:
    """A branch was specialised if cases of one kind of values fail at a size where others pass."""
    kinds = {case.name for case in cases if case.name in VALUES}
    by_size = {case.name: tuple(sorted(case.sizes.items())) for case in cases}
    wrong = failed & kinds
    right = {by_size[case.name] for case in cases if case.name not in failed}
    if wrong and wrong == failed and all(by_size[name] in right for name in wrong):
        listed = ", ".join(f"'{name}'" for name in sorted(wrong))
        yield f"specialised to a branch of the network: only inputs of the kind {listed} fail, at a size where others pass"


def _refusals(findings: Sequence[Finding], cases: Sequence[Case]) -> Iterator[str]:
    refused = {finding.case for finding in findings if finding.problem and finding.problem.startswith(REFUSED)}
    if refused and len(refused) < len(cases):
        yield f"refuses {len(refused)} of {len(cases)} cases"
