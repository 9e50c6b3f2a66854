"""Explain a failure: its cause, if an experiment confirms one; the smallest case, the rung that breaks, the node or module."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.backends.table import NETWORK, backends
from pipeline.backends.variant import Variant
from pipeline.errors import WeighbridgeError
from pipeline.formats.table import formats
from pipeline.parity import causes, jobs, prove
from pipeline.parity.candidate import Names
from pipeline.parity.compare import compare, worst
from pipeline.parity.document import Culprit, Explanation, Rung, ShrunkCase
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.interface import Arrays, Case
    from pipeline.parity.prove import Conditions, Proof, Truth


@dataclass(frozen=True, slots=True)
class _Found:
    """The ladder, and the culprit or why there is none."""

    ladder: tuple[Rung, ...]
    culprit: Culprit | None
    problem: str | None

    @staticmethod
    def of(rungs: Sequence[Rung], culprit: Culprit | None, problem: str) -> _Found:
        """Return what was found; the problem stands where there is no culprit."""
        first = Rung(rung="float64 eager", passed=True, factor=0.0, reason=None)
        return _Found((first, *rungs), culprit, None if culprit else problem)


def explain(
    proof: Proof,
    conditions: Conditions,
    known: Truth,
    *,
    names: Names | None,
    examples: Arrays,
    seed: int,
    folder: Path,
) -> Explanation:
    """Return what is known of a failed proof; write the reproduction into `folder`.

    Where the file was shown to hold the network run otherwise, no node is to blame and none is looked for.
    """
    own = names or Names.same(conditions.interface)
    held = known.of(proof.variant.artifact)
    conditions.report(Event("explain", proof.variant.name, "started", "shrinking the case"))
    tried = causes.look(proof, conditions, held, own, seed=seed)
    found = _Found((), None, None)
    if not tried.settled:
        conditions.report(Event("explain", proof.variant.name, "working", "walking the ladder"))
        found = _climb(proof, conditions, tried.smallest, own, examples, folder)
    conditions.report(Event("explain", proof.variant.name, "ended"))
    case = tried.smallest.cases[0]
    broke = next((each.rung for each in found.ladder if not each.passed), None)
    return Explanation(
        backend=proof.variant.name,
        case=ShrunkCase(name=case.name, sizes=dict(case.sizes), elements=_elements(case)),
        causes=tried.causes,
        ladder=found.ladder,
        broke=broke,
        culprit=found.culprit,
        problem=found.problem,
    )


def _climb(
    proof: Proof, conditions: Conditions, smallest: Truth, names: Names, examples: Arrays, folder: Path
) -> _Found:
    """Climb from the network through the ways in which the backend runs the file, then look for the culprit where it breaks."""
    variant, backend = proof.variant, backends()[proof.variant.backend]
    ladder = [
        replace(variant, name=name, options={**variant.options, **options}) for name, options in backend.ladder
    ] or [variant]
    if backend.format is None or formats()[backend.format].find_culprit is None:
        rungs = _rungs(ladder, conditions, smallest, names)
        where = f"{backend.format} files" if backend.format else "a network that is compiled as it runs"
        return _Found.of(rungs, None, f"where an error begins cannot be looked for in {where}")
    search = partial(_search, conditions, smallest, names, examples, proof.file, folder)
    with ThreadPoolExecutor(1) as pool:
        # What is wrong with a file mostly shows on the lowest rung: do not wait for the ladder to say so.
        guessed = pool.submit(search, ladder[0])
        rungs = _rungs(ladder, conditions, smallest, names)
    broken = next((each for each, rung in zip(ladder, rungs[1:], strict=True) if not rung.passed), None)
    try:
        if broken is None or broken is ladder[0]:
            answer = guessed.result()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            answer = search(broken)
    except WeighbridgeError as error:
        return _Found.of(rungs, None, error.message)
    if answer.program is not None:
        rungs.insert(1, _program_rung(answer.program, smallest))
    culprit = Culprit.from_json(answer.culprit) if answer.culprit else None
    if culprit and broken is None and not culprit.certain:
        culprit = None  # one channel of one case says too little to accuse a node where every output is right
    return _Found.of(rungs, culprit, answer.problem or "with every value exposed, each is within its budget")


def _program_rung(program: Arrays, smallest: Truth) -> Rung:
    (reference,), (floors,) = smallest.references, smallest.floors
    outputs = {name: value.astype(reference.dtypes[name]) for name, value in program.items()}
    found = compare(smallest.cases[0].name, reference, floors, outputs, smallest.rules)
    return Rung(
        rung="exported program", passed=all(each.passed for each in found), factor=worst(found).factor, reason=None
    )


def _search(
    conditions: Conditions, smallest: Truth, names: Names, examples: Arrays, file: Path, folder: Path, variant: Variant
) -> jobs.Found:
    request = jobs.FindCulprit(
        network=conditions.network,
        interface=conditions.interface,
        examples=dict(examples),
        inputs=dict(smallest.cases[0].inputs),
        candidate=jobs.Candidate(
            format=backends()[variant.backend].format or "",
            file=file,
            options=dict(variant.options),
            custom_ops=variant.custom_ops,
            inputs=dict(names.inputs),
            outputs=dict(names.outputs),
        ),
        folder=folder,
    )
    # The network is exported afresh, to compare with.
    modules = ("torch", "onnx", *formats()[request.candidate.format].modules, jobs.__name__)
    with conditions.runner.start("the search for the culprit", threads=1, modules=modules) as worker:
        return worker.call(request, timeout_s=conditions.timeout_s)


def _rungs(variants: Sequence[Variant], conditions: Conditions, smallest: Truth, names: Names) -> list[Rung]:
    """Return float32 eager as a rung, then one for each variant of the file, which calls things by `names`."""
    quiet = replace(conditions, report=lambda _: None)
    eager = Variant("float32 eager", NETWORK, None, required=False)
    proofs = prove.prove([eager, *variants], quiet, smallest, {each.name: names for each in variants})
    return [_rung(proof) for proof in proofs]


def _rung(proof: Proof) -> Rung:
    factor = proof.worst.factor if proof.worst else None
    return Rung(rung=proof.variant.name, passed=proof.status == "pass", factor=factor, reason=proof.reason)


def _elements(case: Case) -> int:
    return sum(int(array.size) for array in case.inputs.values())
