"""Outputs that end in a sigmoid or softmax: what their own accuracy excuses, and whether what enters them is right.

Runtimes compute a sigmoid to absolute accuracy: a probability of 4e-5 is off by 1e-7, which is hundreds of times what float32
noise explains there. That is no defect, but a defect may look like it. So nothing is excused without an experiment: the file
is run again with its last sigmoids and softmaxes left out, and what enters them is held against the network without its own, in
float64, with that network's own noise floors.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.errors import WeighbridgeError
from pipeline.formats.table import formats
from pipeline.parity import jobs, oracle
from pipeline.parity.compare import compare, excused
from pipeline.worker.session import Run, opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.backends.variant import Variant
    from pipeline.formats.format import Format
    from pipeline.interface import Arrays
    from pipeline.parity.candidate import Names
    from pipeline.parity.compare import Finding
    from pipeline.parity.truth import Conditions, Truth

_EXCUSED = "as much as the accuracy of a last sigmoid or softmax excuses"


def excusable(case: str, index: int, known: Truth, outputs: Arrays) -> dict[str, Finding]:
    """Return, by output, the findings of those that leave their noise floor by no more than a last sigmoid or softmax may."""
    reference, floors = known.references[index], known.floors[index]
    wanted = [name for name in reference.slack if not known.rules[name].explicit and name in outputs]
    found = {name: excused(case, name, reference, floors, outputs, known.rules) for name in wanted}
    return {name: each for name, each in found.items() if each.passed}


def confirmed(
    variant: Variant,
    conditions: Conditions,
    known: Truth,
    findings: Sequence[Finding],
    forgiving: Mapping[tuple[str, str], Finding],
    names: Names,
) -> list[Finding]:
    """Return findings with those that failed judged by what enters their last sigmoids and softmaxes.

    `forgiving` are the same findings with the accuracy of these allowed for, by case and output.
    """
    wanted = sorted({output for _, output in forgiving})
    name = backends()[variant.backend].format
    operate = formats()[name] if name else None
    try:
        if operate is None or operate.without_bounded is None:
            raise WeighbridgeError(
                f"{'a network' if operate is None else f'a file in {name}'} cannot be run without it"
            )
        before = _before(variant, conditions, known, operate, wanted, {case for case, _ in forgiving}, names)
    except WeighbridgeError as error:
        why = error.message.splitlines()[0]
        return [each if each.passed else _unconfirmed(each, why) for each in findings]
    return [
        each if each.passed else _decided(each, forgiving[each.case, each.output], before[each.case, each.output])
        for each in findings
    ]


def _before(
    variant: Variant,
    conditions: Conditions,
    known: Truth,
    operate: Format,
    outputs: Sequence[str],
    cases: set[str],
    names: Names,
) -> dict[tuple[str, str], tuple[Finding, bool]]:
    """Return how what enters the last sigmoids and softmaxes compares, and whether that case would show a defect there."""
    theirs = {ours: name for name, ours in names.outputs.items()}
    timeout_s = conditions.timeout_s
    with TemporaryDirectory(prefix="weighbridge-bounded-") as folder:
        if variant.file is None:
            raise WeighbridgeError("there is no file to run without it")
        with oracle.started(conditions.runner) as worker:
            request = jobs.WithoutBounded(
                format=operate.name,
                file=variant.file,
                outputs=tuple(theirs.get(each, each) for each in outputs),
                folder=Path(folder),
            )
            file = worker.call(request, timeout_s=timeout_s)
            rehearse = jobs.Rehearse(network=conditions.network, interface=conditions.interface, cases=known.cases)
            worker.call(rehearse, timeout_s=timeout_s)
            found = worker.call(jobs.Evaluate(seed=0, unbounded=tuple(outputs)), timeout_s=timeout_s)
        floors = {name: oracle.floors(found.references, name) for name in outputs}
        session = opened(
            conditions.runner,
            replace(variant, file=file),
            names.renamed(conditions.interface),
            conditions.network,
            threads=conditions.threads,
            timeout_s=timeout_s,
        )
        results: dict[tuple[str, str], tuple[Finding, bool]] = {}
        with session as (worker, _):
            for index, (case, reference) in enumerate(zip(known.cases, found.references, strict=True)):
                if case.name not in cases:
                    continue
                got = names.ours(worker.call(Run(inputs=names.feed(case.inputs)), timeout_s=timeout_s))
                own = {name: each[index] for name, each in floors.items() if each is not None}
                single = replace(reference, values={name: reference.values[name] for name in outputs})
                rules = known.rules
                for each in compare(case.name, single, own, {name: got[name] for name in outputs}, rules):
                    tells = reference.tells(each.output)
                    results[case.name, each.output] = each, tells
    return results


def _decided(failed: Finding, forgiving: Finding, before: tuple[Finding, bool]) -> Finding:
    found, tells = before
    if found.passed and tells:
        return replace(forgiving, forgiven=True)
    if found.passed:
        return _unconfirmed(failed, "what enters it is the same whatever the weights")
    where = f" at [{', '.join(map(str, found.worst_index))}]"
    said = (
        found.problem or f"{found.got:.9g} instead of {found.expected:.9g}{where}, {found.factor:.3g} × the noise floor"
    )
    return replace(failed, problem=f"what enters its last sigmoid or softmax is wrong: {said}")


def _unconfirmed(failed: Finding, why: str) -> Finding:
    place = f"at [{', '.join(map(str, failed.worst_index))}]"
    return replace(
        failed,
        problem=f"{failed.got:.9g} instead of {failed.expected:.9g} {place}, {failed.factor:.3g} × the noise floor, {_EXCUSED}; "
        f"but what enters it could not be checked ({why}): return that instead of the probability, or say what is allowed: "
        f"parity: {{outputs: {{{failed.output}: {{atol: 1e-6, rtol: 0}}}}}}",
    )
