"""The rebuilt network: run on every case before anything else, held against what was recorded, evaluated in float64."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from pipeline.config.labels import labels
from pipeline.config.models import OutputConfig
from pipeline.errors import ConfigError, MisfitError
from pipeline.parity import choice, oracle, prove, trained
from pipeline.parity.budget import Rule
from pipeline.parity.jobs import Evaluate, Evaluation, Rehearse, Rehearsed
from pipeline.run import cached, keys
from pipeline.run.plan import at_once
from pipeline.run.stages.results import Inputs
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.config.models import GateConfig, ParityConfig, ReferenceConfig, ToleranceConfig
    from pipeline.parity.prove import Truth
    from pipeline.parity.trained import Agreement
    from pipeline.rebuild.reference import Recording
    from pipeline.run.plan import Plan
    from pipeline.run.stages.state import State
    from pipeline.worker.runner import Worker


def truth_of(state: State, known: Evaluation) -> Truth:
    """Return what every output should be, and what each artifact's are held to."""
    cases = (*state.need(Inputs).cases, *known.signals)
    references = (*known.references, *known.signal_references)
    found = prove.truth(cases, references, known.fallback, rules_of(state.plan), gates_of(state.plan))
    return replace(found, rows=known.rows)


@contextmanager
def rehearsed(state: State) -> Iterator[Callable[[], Evaluation]]:
    """Run the network on every case, and yield what evaluates the oracle on them and returns that with the network's facts.

    Raises:
        ArchitectureError: it does not take them all, before anything else is done.
    """
    planned, report, key = state.plan, state.settings.report, keys.of_oracle(state.plan)
    store, about = state.cache, f"{planned.config.name}: oracle"
    with ExitStack() as stack:
        found = cached.get(store, key)
        if found is None and state.settings.shared:
            stack.enter_context(store.held({key: about}))
            found = cached.get(store, key)  # another machine may have made it while we waited
        if found is None:
            yield stack.enter_context(_evaluated(state, key, about))
            return
        report(cached.ended("export", "oracle", found))
        known = Evaluation.model_validate(found.answer)
        _require_labels(planned, known.network)
        _note_contradictions(state, known.network)
        yield lambda: known


@contextmanager
def _evaluated(state: State, key: str, about: str) -> Iterator[Callable[[], Evaluation]]:
    """Do what `rehearsed` does where nothing is kept."""
    planned, report = state.plan, state.settings.report
    timeout_s = planned.config.limits.run_seconds
    report(Event("export", "network", "started"))
    with oracle.started(state.runner) as worker:
        facts = rehearse(worker, state)
        report(Event("export", "network", "ended", peak_bytes=worker.peak_bytes))
        _note_contradictions(state, facts)

        @cache
        def evaluate() -> Evaluation:
            report(Event("export", "oracle", "started"))
            request = Evaluate(seed=planned.config.parity.seed, signals=True, rows=True)
            known = worker.call(request, timeout_s=timeout_s)
            found = cached.keep(state.cache, key, about, known.model_dump())
            report(cached.ended("export", "oracle", found, peaks=[worker.peak_bytes]))
            return Evaluation.model_validate(found.answer)

        yield evaluate


def rehearse(worker: Worker, state: State) -> Rehearsed:
    """Let a worker build the network and run it on every case; return the network's facts and how it is bound.

    Raises:
        MisfitError: the weights do not fit; where several names are possible, it says which of them the recording tells.
    """
    planned, inputs = state.plan, state.need(Inputs)
    recording = inputs.recording
    try:
        request = Rehearse(
            network=planned.network,
            interface=planned.interface,
            cases=inputs.cases,
            recorded=len(recording.calls) if recording and not planned.interface.preprocesses else 0,
        )
        facts = worker.call(request, timeout_s=planned.config.limits.run_seconds)
    except MisfitError as error:
        given = planned.config.reference
        if recording is None or given is None:
            raise

        def agrees(evaluation: Evaluation) -> bool:
            return _judged(state, recording, given, evaluation)[0].passed

        raise choice.explained(error, worker, _alone(state), recording, agrees) from None
    _require_labels(planned, facts)
    return facts


def evaluate_oracle(state: State) -> Evaluation:
    """Return the oracle's evaluation of every case, with the facts about the network."""
    with rehearsed(state) as evaluate:
        return evaluate()


def agreed(state: State, evaluate: Callable[[], Evaluation]) -> Agreement | None:
    """Hold the rebuilt network against the recording, if there is one.

    `evaluate` gives the oracle's evaluation of all or the recorded cases; with preprocessing in front of the network there are none of
    these, and the network is evaluated without it.

    Raises:
        GateError: it is not the network that was recorded.
    """
    recording, given = state.need(Inputs).recording, state.plan.config.reference
    if recording is None or given is None:
        return None
    state.settings.report(Event("reference", recording.name, "started"))
    evaluation = _evaluated_alone(state, recording) if state.plan.interface.preprocesses else evaluate()
    own = evaluation.model_copy(update={"references": evaluation.references[-len(recording.calls) :]})
    found, rules = _judged(state, recording, given, own)
    trained.require(found, recording, own, _alone(state), rules)
    state.settings.report(Event("reference", recording.name, "ended"))
    return found


def _evaluated_alone(state: State, recording: Recording) -> Evaluation:
    """Return the oracle's evaluation of the recorded cases, by the network without preprocessing."""
    own, timeout_s = _alone(state), state.plan.config.limits.run_seconds
    request = Rehearse(
        network=own.network, interface=own.interface, cases=recording.cases, recorded=len(recording.calls)
    )
    with oracle.started(state.runner) as worker:
        worker.call(request, timeout_s=timeout_s)
        return worker.call(Evaluate(seed=state.plan.config.parity.seed), timeout_s=timeout_s)


def _alone(state: State) -> prove.Conditions:
    """Return what every run of the network itself needs, without preprocessing."""
    found = conditions_of(state)
    return replace(found, interface=found.interface.of_network(), network=found.network.alone())


def conditions_of(state: State) -> prove.Conditions:
    """Return what every run of a proof needs."""
    planned, settings = state.plan, state.settings
    return prove.Conditions(
        planned.interface,
        planned.network,
        settings.threads,
        planned.config.limits.run_seconds,
        settings.report,
        state.runner,
        max(1, at_once(planned, settings) - 1),  # the audit runs beside them
    )


def rules_of(planned: Plan) -> dict[str, Rule]:
    """Return what each output is held to."""
    parity = planned.config.parity
    return {name: _rule(parity, parity.outputs.get(name)) for name in planned.config.outputs}


def gates_of(planned: Plan) -> dict[str, dict[str, Rule]]:
    """Return what the outputs of each artifact are held to that has a gate of its own."""
    parity = planned.config.parity
    return {
        artifact: {
            name: _rule(parity, gate.outputs.get(name), gate, parity.outputs.get(name))
            for name in planned.config.outputs
        }
        for artifact, gate in planned.config.gates.items()
        if gate.has_budget
    }


def _rule(usual: ParityConfig, *nearer: ToleranceConfig | GateConfig | None) -> Rule:
    """Return the first of the nearer budgets that says anything, else the usual one."""
    constant = any(isinstance(each, OutputConfig) and each.constant for each in nearer)
    own = next((each for each in nearer if each and (each.limit is not None or each.atol is not None)), usual)
    return Rule(limit=own.limit or usual.limit, atol=own.atol, rtol=own.rtol, constant=constant)


def _judged(
    state: State, recording: Recording, given: ReferenceConfig, evaluation: Evaluation
) -> tuple[Agreement, dict[str, Rule]]:
    """Compare a network with the recording, given its oracle's evaluation of the recorded cases; return that and the rules."""
    rule = Rule(state.plan.config.parity.limit, given.atol, given.rtol)
    rules = dict.fromkeys(state.plan.interface.outputs, rule)
    return trained.judge(recording, evaluation, _alone(state), rules, explicit=given.atol is not None), rules


def _require_labels(planned: Plan, facts: Rehearsed) -> None:
    """Raise ConfigError where an output has another number of classes than the config names."""
    for name, found in labels(planned.config).items():
        shape = facts.shapes.get(name, ())
        if shape[-1:] != (len(found),):
            raise ConfigError(
                f"{planned.config.place(f'describe.{name}.labels')}: describe.{name}.labels: {len(found)} names, and {name} has shape "
                f"{list(shape)}",
                hint=f"name every class along the last axis of {name}, in their order"
                if shape
                else f"{name} has no classes",
            )


def _note_contradictions(state: State, facts: Rehearsed) -> None:
    """Remark on arguments that the config writes out otherwise than the checkpoint says."""
    for each in facts.contradictions:
        state.settings.report(Event("export", "network", "noted", each))
