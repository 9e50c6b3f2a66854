"""Hold the rebuilt network against what it gave where it was trained.

What comes before proof starts is held against nothing otherwise: the architecture as it was written down again, its
arguments, the weights under their names. Recorded outputs must lie within the error budget of the rebuilt network in
float64, and so must what it gives in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import GateError, WeighbridgeError
from pipeline.parity import jobs, prove
from pipeline.parity.compare import compare, worst
from pipeline.rebuild import reference, why

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.parity.budget import Rule
    from pipeline.parity.compare import Finding
    from pipeline.parity.jobs import Evaluation
    from pipeline.parity.prove import Conditions, Truth
    from pipeline.rebuild.reference import Recorded, Recording

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a rebuilt network compares with the recording: findings in float64 and float32, and what else differs.

    `explicit`: tolerances of the user's decide, and what the file says of weights and settings is only told.
    """

    findings: tuple[Finding, ...]
    differences: tuple[str, ...]
    hints: tuple[str, ...]
    explicit: bool

    @property
    def passed(self) -> bool:
        """Whether it is the network that was recorded."""
        return all(each.passed for each in self.findings) and (self.explicit or not self.differences)

    @property
    def deciding(self) -> Finding:
        """The finding that decided."""
        return worst(self.findings)


def judge(
    recording: Recording, evaluation: Evaluation, conditions: Conditions, rules: Mapping[str, Rule], *, explicit: bool
) -> Agreement:
    """Compare a recording with the oracle's evaluation of the recorded cases alone."""
    known = prove.truth(recording.cases, evaluation.references, evaluation.fallback, rules)
    findings = [each for index, call in enumerate(recording.calls) for each in _compared(call, index, known)]
    for index, (call, plain) in enumerate(zip(recording.calls, evaluation.network.plain, strict=True)):
        exact = known.references[index]
        single = replace(exact, values={**exact.values, **{name: _wide(value) for name, value in plain.items()}})
        findings += _compared(call, index, replace(known, references=_with(known.references, index, single)))
    found = evaluation.network.fingerprint
    return Agreement(
        tuple(findings),
        tuple(reference.differences(recording.meta, found)),
        tuple(reference.hints(recording, conditions.interface, found)),
        explicit,
    )


def _with(references: Sequence[Any], index: int, other: Any) -> tuple[Any, ...]:
    return (*references[:index], other, *references[index + 1 :])


def _wide(value: Any) -> Any:
    return value.astype(np.float64) if value.dtype.kind == "f" or value.dtype.name == "bfloat16" else value


def _compared(call: Recorded, index: int, known: Truth) -> tuple[Finding, ...]:
    dtypes = known.references[index].dtypes
    # A recording may be of another precision; integers are what they are.
    outputs = {
        name: value.astype(_dtype(dtypes[name])) if value.dtype.kind == "f" and "float" in dtypes[name] else value
        for name, value in call.outputs.items()
    }
    return compare(call.case.name, known.references[index], known.floors[index], outputs, known.rules)


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(name)


def require(
    agreement: Agreement,
    recording: Recording,
    evaluation: Evaluation,
    conditions: Conditions,
    rules: Mapping[str, Rule],
) -> None:
    """Raise GateError unless the rebuilt network is the recorded one, with what explains the difference as far as it was found."""
    if agreement.passed:
        return
    known = prove.truth(recording.cases, evaluation.references, evaluation.fallback, rules)
    failed = [each for each in agreement.findings if not each.passed]
    lines = [prove.finding_in_words(worst(failed), known)] if failed else []
    lines += agreement.differences[:_SHOWN]
    found = _explained(recording, known, conditions) if failed else why.Explanation((), None)
    lines += [*found.told, *agreement.hints[:_SHOWN]]
    told = "\n  ".join(
        [f"the rebuilt network is not the one that was recorded in {recording.name} ({recording.place}):", *lines]
    )
    raise GateError(told, hint=found.fix or _way_out(recording, failed), about="trained-network")


def _way_out(recording: Recording, failed: Sequence[Finding]) -> str:
    is_elsewhere = recording.meta and (
        recording.meta["device"] != "cpu"
        or recording.meta["autocast"]
        or {"float16", "bfloat16"} & {*recording.meta["dtypes"]}
    )
    if failed and is_elsewhere:
        largest = max(each.max_error for each in failed)
        return (
            "another device or precision rounds otherwise: if that is all, say what is allowed, as in "
            f"reference: {{file: {recording.name}, atol: {largest * 2:.1g}, rtol: 0}}"
        )
    return "correct the architecture, its arguments or the weights until it agrees; nothing was exported"


def _explained(recording: Recording, known: Truth, conditions: Conditions) -> why.Explanation:
    """Let a worker try what may be wrong; a search that fails explains nothing."""
    allowed = [
        {
            name: np.asarray(known.rules[name].allowed(values, floors[name]))
            for name, values in each.values.items()
            if name in floors
        }
        for each, floors in zip(known.references, known.floors, strict=True)
    ]
    request = jobs.ExplainDifference(
        network=conditions.network,
        interface=conditions.interface,
        calls=tuple(why.Call(*each) for each in zip(recording.calls, allowed, strict=True)),
        attributes=recording.attributes,
    )
    try:
        with conditions.runner.start(
            "the search for what differs", threads=conditions.threads, modules=("torch", jobs.__name__)
        ) as worker:
            return worker.call(request, timeout_s=conditions.timeout_s)
    except WeighbridgeError as error:
        return why.Explanation((f"what differs was not found: {error.message.splitlines()[0]}",), None)
