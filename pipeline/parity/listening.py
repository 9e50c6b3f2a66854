"""Noise that was listened to for too short a time: before a small excess is called a defect, more of it is heard.

The noise of a case is the largest of a few calls with moved numbers. Where rounding errors are amplified here and there (a row whose
variance is almost nothing before a normalisation), most calls show little and some show much: the largest of a few says too
little. Where an output leaves its budget by a small factor, the same case is called many more times. Also of noise without such tails
the largest of many is more than the largest of three (SimpleNet: 2.0 times at the median of its cases), so that only what exceeds that is news.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.parity import jobs, oracle
from pipeline.parity.truth import floors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipeline.parity.oracle import Reference
    from pipeline.parity.prove import Proof
    from pipeline.parity.truth import Conditions, Truth

MORE = 16
EXPECTED_GROWTH = 2.0
SMALL_EXCESS = 16.0
"""How far beyond the limit an excess is small: a defect further out would stay one."""


def in_doubt(proofs: Sequence[Proof]) -> set[str]:
    """Return the cases in which outputs of proofs leave their budget by a small factor alone, if nothing worse speaks against these proofs."""
    failed = [each for each in proofs if each.status == "fail"]
    doubtful = [
        {finding.case for finding in proof.findings if not finding.passed}
        for proof in failed
        if all(
            finding.passed or (finding.problem is None and finding.factor <= SMALL_EXCESS * finding.limit)
            for finding in proof.findings
        )
    ]
    return set[str]().union(*doubtful)


def heard_longer(known: Truth, names: Collection[str], conditions: Conditions, seed: int) -> Truth:
    """Return the truth with the noise of some cases heard in many more calls.

    Raises:
        WeighbridgeError: the oracle could not be asked again.
    """
    cases = tuple(case for case in known.cases if case.name in names)
    rehearse = jobs.Rehearse(network=conditions.network, interface=conditions.interface, cases=cases)
    with oracle.started(conditions.runner) as worker:
        worker.call(rehearse, timeout_s=conditions.timeout_s)
        # Another seed: the first calls would be the same again.
        found = worker.call(jobs.Evaluate(seed=seed + 1, perturbations=MORE), timeout_s=conditions.timeout_s)
    more = dict(zip([case.name for case in cases], found.references, strict=True))
    references = [
        _noisier(each, more[case.name]) if case.name in more else each
        for case, each in zip(known.cases, known.references, strict=True)
    ]
    return replace(known, references=tuple(references), floors=floors_of(references))


def _noisier(before: Reference, more: Reference) -> Reference:
    noise = {
        name: np.maximum(value, more.noise[name] / EXPECTED_GROWTH)
        if np.issubdtype(before.values[name].dtype, np.inexact)
        else value
        for name, value in before.noise.items()
    }
    return replace(before, noise=noise)
