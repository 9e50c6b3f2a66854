"""What a file with a precision of its own is held against: itself, evaluated exactly.

Its weights and roundings are not the network's, so that the network's float64 says nothing about a runtime that runs it. What the file
says does: whole numbers as written, float64 between (`exact`). How far a healthy runtime may be from that has two causes: the
floating precisions that the file is written in (the same file as written, on the inputs and on their neighbours), and what lies between two
steps of a whole number, and may fall on either (exactly, with what is rounded moved a little). The largest difference of
all of these is the noise, and pooled into floors as the network's own (see `pipeline.parity.budget`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.neighbours import neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.formats.format import Evaluate
    from pipeline.interface import Arrays, Case
    from pipeline.parity.oracle import Reference


def references(
    evaluate: Evaluate, cases: Sequence[Case], known: Sequence[Reference], *, seed: int
) -> tuple[Reference, ...]:
    """Return what each case's outputs should be by what the file says; what is known of the cases themselves stays.

    Raises:
        ExportError: something in the file cannot be evaluated.
    """
    return tuple(_reference(evaluate, case, each, seed) for case, each in zip(cases, known, strict=True))


def _reference(evaluate: Evaluate, case: Case, known: Reference, seed: int) -> Reference:
    exact = {name: _wide(each) for name, each in evaluate(case.inputs).items() if name in known.values}
    noise = {name: np.zeros(each.shape) for name, each in exact.items()}
    for outputs in _others(evaluate, case.inputs, seed):
        for name, largest in noise.items():
            np.maximum(largest, _error(_wide(outputs[name]), exact[name]), out=largest)
    values = {
        name: each if known.values[name].dtype.kind in "fc" else np.rint(each).astype(known.values[name].dtype)
        for name, each in exact.items()
    }
    return replace(known, values=values, noise=noise, choices={})


def _others(evaluate: Evaluate, inputs: Arrays, seed: int) -> Iterator[Mapping[str, Any]]:
    """Yield the outputs of evaluations that are as right as the exact one, for a runtime."""
    rng = np.random.default_rng(seed)
    yield evaluate(inputs, "written")
    yield evaluate({name: neighbours(each, rng) for name, each in inputs.items()}, "written")
    for each in (0, 1, seed + 2):  # all up, all down, at random
        yield evaluate(inputs, "moved", each)


def _wide(array: Any) -> Any:
    return np.asarray(array).astype(np.float64)


def _error(value: Any, exact: Any) -> Any:
    """Return the absolute error: equal infinities and shared NaNs have none; what else is not finite stays visible as inf."""
    if value.shape != exact.shape:
        return np.full(exact.shape, np.inf)
    same = (value == exact) | (np.isnan(value) & np.isnan(exact))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(value - exact), nan=np.inf, posinf=np.inf))
