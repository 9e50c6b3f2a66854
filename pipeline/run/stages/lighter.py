"""Artifacts that leave layers out by themselves: as few as make them good enough, those first that cost the most accuracy for the least time."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from pipeline.errors import WorkerError
from pipeline.formats.table import formats
from pipeline.parity import file_jobs
from pipeline.run.stages import accuracy, second
from pipeline.run.stages.exporting import export
from pipeline.run.stages.results import Exported, Judged, Proven
from pipeline.run.stages.sampling import calibration, examples
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pipeline.config.models import ExportConfig
    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Array
    from pipeline.run.stages.state import State

    Prove = Callable[[State, Collection[str]], State]

_CALL = 16  # rows that layers are ranked on


def judged(state: State, prove: Prove) -> State:
    """Return the state with every accuracy that is asked for. `prove(state, names)` adds the proofs of some artifacts.

    Raises:
        InputError: the samples or the metric are not what they must be.
    """
    state = accuracy.judged(state)
    for wanted in state.plan.config.exports:
        chosen = formats()[wanted.format]
        found = state.need(Judged).accuracies.get(wanted.name)
        is_asked = chosen.leaves_out(chosen.options.model_validate(wanted.options))
        if is_asked and found is not None and found.verdict in {"fail", "undecided"}:
            state = _lighter(state, wanted, prove)
    return state


def _lighter(state: State, wanted: ExportConfig, prove: Prove) -> State:
    """Return the state with the fewest layers left out with which an artifact passes; as it was where none of them helps."""
    first = state.need(Exported).named(wanted.name)
    source = state.need(Exported).named(wanted.made_from)
    if first is None or source is None:
        return state
    try:
        layers = _ranked(state, wanted, first, source)
        best = _fewest(state, wanted, source, layers, prove)
    except WorkerError as error:
        state.settings.report(
            Event("parity", wanted.name, "noted", f"{wanted.name}: no layer was left out: {error.message}")
        )
        return state
    count, found = best
    if found is None:
        said = f"leaving out up to {count} of its {len(layers)} layers did not make it good enough"
        state.settings.report(Event("parity", wanted.name, "noted", f"{wanted.name}: {said}"))
        return state
    said = f"{count} of {len(layers)} layers are left as they were: {', '.join(layers[:count])}"
    state.settings.report(Event("parity", wanted.name, "noted", f"{wanted.name}: {said}"))
    return found


def _fewest(
    state: State, wanted: ExportConfig, source: Artifact, layers: Sequence[str], prove: Prove
) -> tuple[int, State | None]:
    """Double the number of layers until it passes, then halve the gap to the last that did not; return the number and the state.

    Only what is taken in the end is proven: that takes longer than judging it.
    """

    def passes(count: int) -> bool:
        made = _without(state, wanted, source, layers[:count])
        return accuracy.would_pass(state, wanted.name, made.files[0])

    low, high = 0, 1
    while high < len(layers) and not passes(high):
        low, high = high, 2 * high
    if high >= len(layers):
        return low, None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    found = _proven(state, wanted, _without(state, wanted, source, layers[:high]), prove)
    return high, found if found.need(Judged).accuracies[wanted.name].verdict == "pass" else None


def _without(state: State, wanted: ExportConfig, source: Artifact, layers: Sequence[str]) -> Artifact:
    options = {**wanted.options, "leave_out": [glob.escape(each) for each in layers]}
    return export(state, wanted.model_copy(update={"options": options}), source)


def _proven(state: State, wanted: ExportConfig, made: Artifact, prove: Prove) -> State:
    family = second.with_descendants(state, made)
    again = prove(second.with_artifacts(state, family), set(family))
    again = again.adding(second.merged(state.need(Proven), again.need(Proven)))
    return accuracy.judged(again, wanted.name)


def _ranked(state: State, wanted: ExportConfig, first: Artifact, source: Artifact) -> tuple[str, ...]:
    request = file_jobs.RankLayers(
        format=wanted.format, file=first.files[0], source=source.files[0], inputs=_inputs(state, wanted)
    )
    state.settings.report(Event("parity", f"{wanted.name} layers", "started"))
    with state.runner.start(f"the layers of {wanted.name}", threads=1, modules=("torch", "onnx")) as worker:
        found = worker.call(request, timeout_s=state.plan.config.limits.run_seconds)
    state.settings.report(Event("parity", f"{wanted.name} layers", "ended"))
    return found


def _inputs(state: State, wanted: ExportConfig) -> dict[str, Array]:
    """Return the inputs of one call: some of the calibration data, where rows are what lies along the first axis."""
    given = calibration(state.plan, wanted)
    firsts = {spec.shape[0] if spec.shape else 1 for spec in state.plan.interface.inputs}
    if given is None or len(firsts) > 1 or not isinstance(next(iter(firsts)), str):
        return dict(examples(state.plan).inputs)
    return {name: each[:_CALL] for name, each in given.items()}
