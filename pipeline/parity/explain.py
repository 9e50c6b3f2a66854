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
from pipeline.interface import complete_sizes, free_dimensions
from pipeline.parity import behaviour, experiments, jobs, oracle, prove, vary
from pipeline.parity.candidate import Names
from pipeline.parity.compare import compare, worst
from pipeline.parity.document import Culprit, Explanation, Rung, ShrunkCase
from pipeline.parity.experiments import Judged
from pipeline.rebuild import cases
from pipeline.worker import session
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.interface import Arrays, Case
    from pipeline.parity.budget import Rule
    from pipeline.parity.prove import Conditions, Proof, Truth

_SHRINK_STEPS = 6
_WATCHED = 4


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
    tried = _experiment(proof, conditions, held, own, seed)
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


@dataclass(frozen=True, slots=True)
class _Tried:
    """What the experiments came to: a truth of the smallest case that fails, and the causes that were confirmed.

    `settled`: the causes say all there is to say.
    """

    smallest: Truth
    causes: tuple[str, ...] = ()
    settled: bool = False


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the oracle says of cases, what the file gives for them, and how the network runs otherwise on the watched ones."""

    truth: Truth
    outputs: tuple[Arrays | None, ...]
    varied: vary.Variations

    def judged(self, rules: Mapping[str, Rule]) -> list[Judged]:
        """Return the cases with what was given for them, in order."""
        columns = (self.truth.cases, self.truth.references, self.truth.floors, self.outputs)
        return [Judged(*each, rules) for each in zip(*columns, strict=True)]


def _experiment(proof: Proof, conditions: Conditions, known: Truth, names: Names, seed: int) -> _Tried:
    """Try smaller cases and all that may be the cause in one go: one start of the oracle and one of the backend.

    Every size between is tried at once, because one answer of the oracle costs about as much as several.
    """
    failed = {finding.case for finding in proof.findings if not finding.passed}
    order = sorted(range(len(known.cases)), key=lambda index: _elements(known.cases[index]))
    wrong = [index for index in order if known.cases[index].name in failed] or [0]
    right = [index for index in order if known.cases[index].name not in failed]
    watched = [*wrong[:_WATCHED], *right[:_WATCHED]]
    interface = conditions.interface
    smaller = _smaller(known.cases[wrong[0]], conditions, seed)
    opened = experiments.opened([known.cases[index] for index in wrong], interface)
    sized = [
        trial
        for each in behaviour.suspected(proof.findings, known.cases)
        for trial in experiments.size_trials(each, interface, known.cases, failed, seed)
    ]
    start = _only(known, wrong[0])
    try:
        found = _ask(
            proof,
            conditions,
            known,
            names,
            watched,
            [*opened, *smaller, *(each.case for each in sized)],
            len(opened),
            seed,
        )
    except WeighbridgeError:
        return _Tried(start)
    judged = found.judged(known.rules)
    seen, shrunk, resized = (
        judged[: len(watched) + len(opened)],
        range(len(watched) + len(opened), len(judged) - len(sized)),
        judged[len(judged) - len(sized) :],
    )
    failing = [index for index in shrunk if not judged[index].passed]
    smallest = _only(found.truth, min(failing, key=lambda index: _elements(judged[index].case))) if failing else start
    twins = [each for each in found.varied.twins if experiments.holds_twin(each, seen)]
    branch = found.varied.branch
    if not twins and branch and experiments.holds_twin(branch, seen[: len(wrong[:_WATCHED])]):
        twins = [branch]
    causes = [f"{each.words}; fix: {each.remedy}" for each in twins]
    for suspicion in dict.fromkeys(each.suspicion for each in sized):
        own = [(trial, each.passed) for trial, each in zip(sized, resized, strict=True) if trial.suspicion == suspicion]
        causes += filter(None, [experiments.specialised(own)])
    if not causes:
        causes += experiments.explained_by(seen, found.varied.met)
    return _Tried(smallest, tuple(causes), settled=bool(twins))


def _ask(
    proof: Proof,
    conditions: Conditions,
    known: Truth,
    names: Names,
    watched: Sequence[int],
    trials: Sequence[Case],
    opened: int,
    seed: int,
) -> _Answers:
    """Ask the oracle and the backend of the watched cases, of which the oracle's answer is known, and of trials.

    Raises:
        WeighbridgeError: the network does not take a trial, or a worker crashed.
    """
    cases = [*(known.cases[index] for index in watched), *trials]
    passed = {finding.case for finding in proof.findings} - {each.case for each in proof.findings if not each.passed}
    request = vary.Vary(
        cases=tuple(dict(case.inputs) for case in cases[: len(watched) + opened]),
        right=tuple(place for place, index in enumerate(watched) if known.cases[index].name in passed),
        wrong=tuple(place for place, index in enumerate(watched) if known.cases[index].name not in passed),
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_outputs, proof, conditions, names, cases)
        rehearsed = tuple(trials) or (known.cases[watched[0]],)
        with conditions.runner.start("the oracle", threads=1, environment=oracle.ENVIRONMENT) as worker:
            worker.call(
                jobs.Rehearse(network=conditions.network, interface=conditions.interface, cases=rehearsed),
                timeout_s=conditions.timeout_s,
            )
            references = worker.call(jobs.Evaluate(seed=seed), timeout_s=conditions.timeout_s).references
            varied = worker.call(request, timeout_s=conditions.timeout_s)
        outputs = running.result()
    every = [*known.references, *(references if trials else ())]
    judged = prove.truth([*known.cases, *trials], every, known.fallback, known.rules, known.gates)
    return _Answers(_only(judged, *watched, *range(len(known.cases), len(judged.cases))), outputs, varied)


def _outputs(proof: Proof, conditions: Conditions, names: Names, cases: Sequence[Case]) -> tuple[Arrays | None, ...]:
    """Return what the backend gives for cases, under the config's names; None where it refuses one.

    Raises:
        WeighbridgeError: it cannot be opened, or crashed.
    """
    found: list[Arrays | None] = []
    renamed = names.renamed(conditions.interface)
    with session.opened(
        conditions.runner,
        proof.variant,
        renamed,
        conditions.network,
        threads=conditions.threads,
        timeout_s=conditions.timeout_s,
    ) as (worker, _):
        for case in cases:
            try:
                given = worker.call(session.Run(inputs=names.feed(case.inputs)), timeout_s=conditions.timeout_s)
                found.append(names.ours(given))
            except WeighbridgeError:
                if not worker.alive:
                    raise
                found.append(None)
    return tuple(found)


def _smaller(case: Case, conditions: Conditions, seed: int) -> list[Case]:
    """Return the same kind of case at smaller sizes: each dimension halved several times, alone and all together."""
    values = case.name if case.name in cases.VALUES else "normal"
    allowed = {each.name: cases.allowed(each) for each in free_dimensions(conditions.interface.dimensions)}
    steps: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    for divisor in (2**step for step in range(1, _SHRINK_STEPS)):
        smaller = {name: _at_most(sizes, case.sizes[name] // divisor) for name, sizes in allowed.items()}
        for chosen in (smaller, *({**case.sizes, name: size} for name, size in smaller.items())):
            sizes = complete_sizes(conditions.interface.dimensions, {name: chosen[name] for name in smaller})
            steps[tuple(sorted(sizes.items()))] = sizes
    steps.pop(tuple(sorted(case.sizes.items())), None)
    return [
        cases.make(conditions.interface, sizes, seed=seed, name=f"{case.name}, smaller ({index})", values=values)
        for index, sizes in enumerate(steps.values(), 1)
    ]


def _at_most(sizes: range, wanted: int) -> int:
    return max((size for size in sizes if size <= wanted), default=sizes[0])


def _only(known: Truth, *indices: int) -> Truth:
    """Return the truth of some of the cases."""
    cases, references, floors = (
        tuple(each[index] for index in indices) for each in (known.cases, known.references, known.floors)
    )
    return replace(known, cases=cases, references=references, floors=floors)


def _climb(
    proof: Proof, conditions: Conditions, smallest: Truth, names: Names, examples: Arrays, folder: Path
) -> _Found:
    """Climb from the network through the ways in which the backend runs the file, then look for the culprit where it breaks."""
    variant, backend = proof.variant, backends()[proof.variant.backend]
    ladder = [
        replace(variant, name=name, options={**variant.options, **options}) for name, options in backend.ladder
    ] or [variant]
    if formats()[backend.format or ""].find_culprit is None:
        rungs = _rungs(ladder, conditions, smallest, names)
        return _Found.of(rungs, None, f"where an error begins cannot be looked for in {backend.format} files")
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
    with conditions.runner.start("the search for the culprit", threads=1) as worker:
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
