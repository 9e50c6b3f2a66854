"""Hold one backend's outputs against the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsInt

import numpy as np

from pipeline.parity import ties
from pipeline.parity.budget import Rule
from pipeline.storage.documents import Count, Many, Number  # noqa: TC001 - pydantic evaluates annotations in this module

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.interface import Array, Arrays
    from pipeline.parity.budget import Floats
    from pipeline.parity.oracle import Reference

    Flags = NDArray[np.bool_]


REFUSED = "the backend refuses this case"


@dataclass(frozen=True, slots=True)
class Finding:
    """How one output of one case compares.

    `factor`: largest error ÷ allowed error × limit, so that a pass is `factor <= limit`; with explicit tolerances the
    limit is 1. `problem` says in words why it failed where a number cannot. `would_pass`: the absolute tolerance (with
    rtol 0) that the output just meets, None where none does. `forgiven`: it left the noise floor, by no more than what its last
    sigmoid or softmax may be off by, and what enters that was within its own floor (see `pipeline.parity.bounded`).
    """

    case: str
    output: str
    passed: bool
    factor: Number
    limit: float
    max_error: Number = 0.0
    rms_error: Number = 0.0
    worst_index: Many[Count] = ()
    expected: Number = 0.0
    got: Number = 0.0
    ties: Count = 0
    problem: str | None = None
    would_pass: Number | None = None
    forgiven: bool = False


def compare(
    case: str,
    reference: Reference,
    floors: Mapping[str, Floats],
    outputs: Arrays,
    rules: Mapping[str, Rule],
) -> tuple[Finding, ...]:
    """Compare a backend's outputs of one case with the reference: one finding an output, in the reference's order."""
    findings = [_compare_output(case, name, reference, floors, outputs.get(name), rules) for name in reference.values]
    extra = [name for name in outputs if name not in reference.values]
    unwanted = [_failed(case, name, Rule(), "not an output of the network") for name in extra]
    return (*_explain_swaps(findings, reference, floors, outputs, rules), *unwanted)


def excused(
    case: str,
    name: str,
    reference: Reference,
    floors: Mapping[str, Floats],
    outputs: Arrays,
    rules: Mapping[str, Rule],
) -> Finding:
    """Return the finding of one output with the accuracy of its last sigmoids and softmaxes allowed for."""
    own = {**floors, name: np.maximum(floors[name], reference.slack[name])}
    return _compare_output(case, name, reference, own, outputs.get(name), rules)


def refused(case: str, reference: Reference, rules: Mapping[str, Rule], reason: str) -> tuple[Finding, ...]:
    """Return the findings of a case that a backend would not run."""
    first = reason.splitlines()[0]
    return tuple(_failed(case, name, rules[name], f"{REFUSED}: {first}") for name in reference.values)


def worst(findings: Sequence[Finding]) -> Finding:
    """Return the finding that decides: the largest factor ÷ limit."""
    return max(findings, key=lambda finding: finding.factor / finding.limit)


def _compare_output(
    case: str,
    name: str,
    reference: Reference,
    floors: Mapping[str, Floats],
    got: Array | None,
    rules: Mapping[str, Rule],
) -> Finding:
    expected, rule = reference.values[name], rules[name]
    if got is None:
        return _failed(case, name, rule, "missing from the backend's outputs")
    if got.shape != expected.shape:
        return _failed(case, name, rule, f"shape {list(got.shape)} instead of {list(expected.shape)}")
    if got.dtype.name != reference.dtypes[name]:
        return _failed(case, name, rule, f"dtype {got.dtype.name} instead of {reference.dtypes[name]}")
    if not got.size:
        return Finding(case, name, passed=True, factor=0.0, limit=_limit(rule))
    if not np.issubdtype(expected.dtype, np.inexact):
        undecided = _undecided(name, got, reference, floors, rules)
        return _compare_exact(case, name, expected, undecided, got, rule)
    return _compare_floating(case, name, reference, floors[name], got, rule)


def _undecided(
    name: str, got: Array, reference: Reference, floors: Mapping[str, Floats], rules: Mapping[str, Rule]
) -> Flags:
    """Return where something else is as good as what the network gives: where it disagrees with itself, and ties.

    Where it is known what an index was chosen from, that alone decides.
    """
    disagrees, choices = reference.noise[name] != 0, reference.choices.get(name, ())
    if not choices:
        return np.asarray(disagrees | _within_margin(reference.values[name], got, reference, floors, rules), bool)
    known = np.any([each.cells >= 0 for each in choices], axis=0)
    return np.asarray(np.where(known, ties.good(choices, got, rules[name].limit), disagrees), bool)


def _within_margin(
    expected: Array, got: Array, reference: Reference, floors: Mapping[str, Floats], rules: Mapping[str, Rule]
) -> Flags:
    """Return where an argmax or argmin of another output may come out otherwise: the two values are as good as equal there.

    They are if their margin in float64 is at most what both may be off by.
    """
    found = np.zeros(expected.shape, bool)
    for name, values in reference.values.items():
        if not np.issubdtype(values.dtype, np.floating) or not values.size:
            continue
        for axis in range(values.ndim):
            index, other = _as_indices(expected, values, axis), _as_indices(got, values, axis)
            if index is None or other is None:
                continue
            best = np.take_along_axis(values, index, axis)
            if not ((best == values.max(axis, keepdims=True)).all() or (best == values.min(axis, keepdims=True)).all()):
                continue
            allowed = rules[name].allowed(values, floors[name])
            budget = np.take_along_axis(allowed, index, axis) + np.take_along_axis(allowed, other, axis)
            found |= (np.abs(best - np.take_along_axis(values, other, axis)) <= budget).reshape(found.shape)
    return found


def _as_indices(found: Array, values: Array, axis: int) -> NDArray[np.int64] | None:
    """Return integers as indices along an axis, that axis kept with size 1; None if they cannot be."""
    kept = (*values.shape[:axis], 1, *values.shape[axis + 1 :])
    reduced = (*values.shape[:axis], *values.shape[axis + 1 :])
    if found.dtype.kind not in "iu" or found.shape not in {kept, reduced}:
        return None
    if not found.size or found.min() < 0 or found.max() >= values.shape[axis]:
        return None
    return found.reshape(kept).astype(np.int64)


def _compare_exact(case: str, name: str, expected: Array, undecided: Flags, got: Array, rule: Rule) -> Finding:
    """Integers and booleans must be equal, except where the network cannot decide (a tie), or by `atol` where one is given."""
    tied = int(((got != expected) & undecided).sum())
    error = np.where(undecided, 0.0, np.abs(got.astype(np.float64) - expected.astype(np.float64)))
    largest = float(error.max())
    if rule.explicit and rule.atol and largest <= rule.atol:
        factor = largest / rule.atol
        return Finding(
            case, name, passed=True, factor=factor, limit=1.0, max_error=largest, ties=tied, would_pass=largest
        )
    differs = (got != expected) & ~undecided
    if not differs.any():
        return Finding(case, name, passed=True, factor=0.0, limit=_limit(rule), ties=tied)
    index = _index(np.argmax(error), expected.shape)
    held = f"may differ by {rule.atol:g}" if rule.explicit and rule.atol else "is compared exactly"
    return Finding(
        case,
        name,
        passed=False,
        factor=np.inf,
        limit=_limit(rule),
        max_error=largest,
        worst_index=index,
        expected=float(expected[index]),
        got=float(got[index]),
        ties=tied,
        problem=f"{int(differs.sum())} of {differs.size} elements differ, by {largest:g} at most; this output {held}",
        would_pass=largest,
    )


def _compare_floating(case: str, name: str, reference: Reference, floor: Floats, got: Array, rule: Rule) -> Finding:
    expected, noise = reference.values[name], reference.noise[name]
    value = got.astype(expected.dtype)
    same = (value == expected) | (np.isnan(value) & np.isnan(expected))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, 0.0, np.abs(value - expected))
    # Where float32 eager overflows or underflows to NaN itself, no float32 backend can be held to the exact value.
    unknowable = ~np.isfinite(noise)
    error = np.where(unknowable, 0.0, np.where(np.isnan(error), np.inf, error))
    allowed = rule.allowed(expected, floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error == 0, 0.0, error / allowed)
    share = np.where(np.isnan(share), np.inf, share)
    index = _index(np.argmax(share), expected.shape)
    limit = _limit(rule)
    factor = float(share[index]) * limit
    finite = error[np.isfinite(error)]
    return Finding(
        case,
        name,
        passed=bool(factor <= limit),
        factor=factor,
        limit=limit,
        max_error=float(error.max()),
        rms_error=float(np.sqrt(np.mean(finite**2))) if finite.size else np.inf,
        worst_index=index,
        expected=float(expected[index].real),
        got=float(value[index].real),
        ties=int(unknowable.sum()),
        problem=_not_finite(value, expected, unknowable),
        would_pass=float(error.max()) if np.isfinite(error).all() else None,
    )


def _not_finite(value: Array, expected: Array, unknowable: Flags) -> str | None:
    wrong = (np.isfinite(value) != np.isfinite(expected)) & ~unknowable
    if not wrong.any():
        return None
    count = int(wrong.sum())
    if np.isfinite(expected[wrong]).all():
        return f"{count} elements are NaN or infinite where the network's are finite"
    return f"{count} elements are finite where the network's are NaN or infinite"


def _explain_swaps(
    findings: Sequence[Finding],
    reference: Reference,
    floors: Mapping[str, Floats],
    outputs: Arrays,
    rules: Mapping[str, Rule],
) -> list[Finding]:
    """Say it when a failed output would have passed as another one."""
    failed = {finding.output for finding in findings if not finding.passed and finding.output in outputs}
    explained = []
    for finding in findings:
        twin = next(
            (
                other
                for other in failed - {finding.output}
                if finding.output in failed
                and _compare_output(finding.case, other, reference, floors, outputs[finding.output], rules).passed
            ),
            None,
        )
        explained.append(
            _with_problem(finding, f"holds what '{twin}' should hold: outputs are swapped") if twin else finding
        )
    return explained


def _with_problem(finding: Finding, problem: str) -> Finding:
    from dataclasses import replace

    return replace(finding, problem=problem)


def _failed(case: str, name: str, rule: Rule, problem: str) -> Finding:
    return Finding(case, name, passed=False, factor=np.inf, limit=_limit(rule), max_error=np.inf, problem=problem)


def _limit(rule: Rule) -> float:
    return 1.0 if rule.explicit else rule.limit


def _index(flat: SupportsInt, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(each) for each in np.unravel_index(int(flat), shape))
