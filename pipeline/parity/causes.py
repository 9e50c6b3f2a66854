"""The causes of a failure that experiments confirm, and the smallest case that fails: one start of the oracle, one of the backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.errors import WeighbridgeError
from pipeline.interface import complete_sizes, free_dimensions
from pipeline.parity import behaviour, experiments, jobs, oracle, prove, vary
from pipeline.parity.experiments import Judged
from pipeline.rebuild import cases as making
from pipeline.worker import session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.interface import Arrays, Case
    from pipeline.parity.candidate import Names
    from pipeline.parity.experiments import SizeTrial
    from pipeline.parity.prove import Conditions, Proof, Truth

_SHRINK_STEPS = 6
_WATCHED = 4


@dataclass(frozen=True, slots=True)
class Looked:
    """What the experiments came to: a truth of the smallest case that fails, and the causes that were confirmed.

    `settled`: the file was shown to hold the network run otherwise, so that there is nothing more to look for.
    """

    smallest: Truth
    causes: tuple[str, ...] = ()
    settled: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """The cases of all experiments: some that the file got wrong and right, these opened, smaller ones, and sizes to try."""

    wrong: list[Case]
    right: list[Case]
    opened: list[Case]
    smaller: list[Case]
    sized: list[SizeTrial]

    @property
    def watched(self) -> list[Case]:
        """Those on which the network is run otherwise, and watched."""
        return [*self.wrong, *self.right, *self.opened]

    @property
    def cases(self) -> list[Case]:
        """All of them."""
        return [*self.watched, *self.smaller, *(each.case for each in self.sized)]

    @property
    def fresh(self) -> list[Case]:
        """Those of which the oracle has said nothing yet."""
        return self.cases[len(self.wrong) + len(self.right) :]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What was found of each case, in order: None for one that the network does not take; and the network run otherwise."""

    judged: tuple[Judged | None, ...]
    varied: vary.Variations


def look(proof: Proof, conditions: Conditions, known: Truth, names: Names, *, seed: int) -> Looked:
    """Try smaller cases and everything that may be the cause in one go.

    Every size between is tried at once, because one answer of the oracle costs about as much as several.
    """
    planned = _planned(proof, conditions, known, seed)
    start = _only(known, planned.wrong[0])
    try:
        found = _ask(proof, conditions, known, names, planned, seed)
    except WeighbridgeError:
        return Looked(start)
    first, last = len(planned.watched), len(planned.watched) + len(planned.smaller)
    watched, smaller, sized = found.judged[:first], found.judged[first:last], found.judged[last:]
    failing = [each for each in smaller if each and not each.passed]
    smallest = min(failing, key=lambda each: _elements(each.case), default=None)
    causes, settled = _confirmed(planned, watched, found.varied)
    for suspicion in dict.fromkeys(each.suspicion for each in planned.sized):
        pairs = zip(planned.sized, sized, strict=True)
        own = [(trial, each.passed) for trial, each in pairs if each and trial.suspicion == suspicion]
        causes += filter(None, [experiments.specialised(own)])
    if not causes:
        seen = [(each, met) for each, met in zip(watched, found.varied.met, strict=True) if each]
        causes += experiments.explained_by([each for each, _ in seen], [met for _, met in seen])
    return Looked(_truth_of(smallest, known) if smallest else start, tuple(causes), settled=settled)


def _confirmed(planned: _Plan, watched: Sequence[Judged | None], varied: vary.Variations) -> tuple[list[str], bool]:
    """Return what is to be said of the twins that the file agrees with, and whether there are any."""
    twins = [each for each in varied.twins if experiments.holds_twin(each, watched)]
    if not twins and varied.branch and experiments.holds_twin(varied.branch, watched[: len(planned.wrong)]):
        twins = [varied.branch]
    return [f"{each.words}; fix: {each.remedy}" for each in twins], bool(twins)


def _planned(proof: Proof, conditions: Conditions, known: Truth, seed: int) -> _Plan:
    failed = {finding.case for finding in proof.findings if not finding.passed}
    ordered = sorted(known.cases, key=_elements)
    wrong = [case for case in ordered if case.name in failed] or ordered[:1]
    interface = conditions.interface
    return _Plan(
        wrong[:_WATCHED],
        [case for case in ordered if case.name not in failed and case is not wrong[0]][:_WATCHED],
        experiments.opened(wrong, interface),
        _smaller(wrong[0], conditions, seed),
        [
            trial
            for each in behaviour.suspected(proof.findings, known.cases)
            for trial in experiments.size_trials(each, interface, known.cases, failed, seed)
        ],
    )


def _ask(proof: Proof, conditions: Conditions, known: Truth, names: Names, planned: _Plan, seed: int) -> _Answers:
    """Ask the oracle and the backend, beside one another, of all cases.

    Raises:
        WeighbridgeError: a worker crashed, or the backend cannot be opened.
    """
    cases, old = planned.cases, len(planned.wrong) + len(planned.right)
    request = vary.Vary(
        cases=tuple(dict(case.inputs) for case in planned.watched),
        right=tuple(range(len(planned.wrong), old)),
        wrong=tuple(range(len(planned.wrong))),
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_outputs, proof, conditions, names, cases)
        with oracle.started(conditions.runner) as worker:
            tried = vary.Try(network=conditions.network, interface=conditions.interface, cases=tuple(planned.fresh))
            taken = worker.call(tried, timeout_s=conditions.timeout_s)
            fresh = [planned.fresh[index] for index in taken]
            found = worker.call(jobs.Evaluate(seed=seed), timeout_s=conditions.timeout_s).references if fresh else ()
            varied = worker.call(request, timeout_s=conditions.timeout_s)
        outputs = running.result()
    # Floors are those of a proof on the known cases and these.
    truth = prove.truth([*known.cases, *fresh], [*known.references, *found], known.fallback, known.rules, known.gates)
    places = {id(case): place for place, case in enumerate(truth.cases)}
    judged = [
        Judged(case, truth.references[place], truth.floors[place], given, truth.rules)
        if (place := places.get(id(case))) is not None
        else None
        for case, given in zip(cases, outputs, strict=True)
    ]
    return _Answers(tuple(judged), varied)


def _outputs(proof: Proof, conditions: Conditions, names: Names, cases: Sequence[Case]) -> list[Arrays | None]:
    """Return what the backend gives for cases, under the config's names; None where it refuses one.

    Raises:
        WeighbridgeError: it cannot be opened, or crashed.
    """
    found: list[Arrays | None] = []
    with session.opened(
        conditions.runner,
        proof.variant,
        names.renamed(conditions.interface),
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
    return found


def _only(known: Truth, case: Case) -> Truth:
    """Return the truth of one of its cases."""
    place = next(index for index, each in enumerate(known.cases) if each is case)
    return replace(known, cases=(case,), references=(known.references[place],), floors=(known.floors[place],))


def _truth_of(judged: Judged, known: Truth) -> Truth:
    return replace(known, cases=(judged.case,), references=(judged.reference,), floors=(judged.floors,))


def _smaller(case: Case, conditions: Conditions, seed: int) -> list[Case]:
    """Return the same kind of case at smaller sizes: each dimension halved several times, alone and all together."""
    values = case.name if case.name in making.VALUES else "normal"
    allowed = {each.name: making.allowed(each) for each in free_dimensions(conditions.interface.dimensions)}
    steps: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    for divisor in (2**step for step in range(1, _SHRINK_STEPS)):
        smaller = {name: _at_most(sizes, case.sizes[name] // divisor) for name, sizes in allowed.items()}
        for chosen in (smaller, *({**case.sizes, name: size} for name, size in smaller.items())):
            sizes = complete_sizes(conditions.interface.dimensions, {name: chosen[name] for name in smaller})
            steps[tuple(sorted(sizes.items()))] = sizes
    steps.pop(tuple(sorted(case.sizes.items())), None)
    return [
        making.make(conditions.interface, sizes, seed=seed, name=f"{case.name}, smaller ({index})", values=values)
        for index, sizes in enumerate(steps.values(), 1)
    ]


def _at_most(sizes: range, wanted: int) -> int:
    return max((size for size in sizes if size <= wanted), default=sizes[0])


def _elements(case: Case) -> int:
    return sum(int(array.size) for array in case.inputs.values())
