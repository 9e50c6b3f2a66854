"""Artifacts that leave layers out by themselves: as few as make them good enough, those that cost the most accuracy."""

from __future__ import annotations

import glob
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.errors import ExportError, WorkerError
from pipeline.parity import file_jobs, samples
from pipeline.rebuild.cases import allowed
from pipeline.run.stages import accuracy, second
from pipeline.run.stages.exporting import export
from pipeline.run.stages.results import Exported, Judged, Proven
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pipeline.config.models import ExportConfig
    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Array
    from pipeline.run.stages.state import State

    Prove = Callable[[State, Collection[str]], State]

_FEWEST_ROWS, _ELEMENTS = 4, 1024  # of the call that layers are ranked on: a network is run some hundred times on it


def judged(state: State, prove: Prove) -> State:
    """Return the state with every accuracy that is asked for. `prove(state, names)` adds the proofs of some artifacts.

    Raises:
        InputError: the samples or the metric are not what they must be.
    """
    asked = [each for each in state.plan.config.exports if accuracy.leaves_out(state.plan, each.name)]
    if not asked:
        return accuracy.judged(state)
    with TemporaryDirectory(prefix="weighbridge-") as folder:
        shared = accuracy.Shared(Path(folder))
        state = accuracy.judged(state, shared=shared)
        for wanted in asked:
            found = state.need(Judged).accuracies.get(wanted.name)
            if found is not None and found.verdict in {"fail", "undecided"}:
                state = _lighter(state, _Search(wanted, shared, prove))
    return state


@dataclass(frozen=True, slots=True)
class _Search:
    """An artifact that layers are left out of, what its tries share, and what proves the one that is taken."""

    wanted: ExportConfig
    shared: accuracy.Shared
    prove: Prove


def _lighter(state: State, search: _Search) -> State:
    """Return the state with the fewest layers left out with which an artifact passes; as it was where none of them helps."""
    wanted = search.wanted
    first, source = (state.need(Exported).named(each) for each in (wanted.name, wanted.made_from))
    if first is None or source is None:
        return state
    try:
        sets = _ranked(state, search, first, source)
        count, found = _fewest(state, search, (first, source), sets)
    except WorkerError as error:
        state.settings.report(
            Event("parity", wanted.name, "noted", f"{wanted.name}: no layer was left out: {error.message}")
        )
        return state
    if found is None:
        said = f"leaving out up to {count} of its {len(sets)} layers did not make it good enough"
        state.settings.report(Event("parity", wanted.name, "noted", f"{wanted.name}: {said}"))
        return state
    said = f"{count} of {len(sets)} layers are left as they were: {', '.join(sets[count - 1])}"
    state.settings.report(Event("parity", wanted.name, "noted", f"{wanted.name}: {said}"))
    return found


def _fewest(
    state: State, search: _Search, made_so: tuple[Artifact, Artifact], sets: Sequence[Sequence[str]]
) -> tuple[int, State | None]:
    """Double the number of layers until it passes, then halve the gap to the last that did not; return the number and the state.

    `sets` are the layers to leave out where it is to be one, two, …. Only what is taken in the end is proven: that takes longer than
    judging it.
    """
    name = search.wanted.name

    def passes(count: int) -> bool:
        try:
            made = _without(state, search.wanted, made_so, sets[count - 1])
        except ExportError:  # nothing became smaller
            return False
        return accuracy.would_pass(state, name, made.files[0], search.shared)

    low, high = 0, 1
    while high < len(sets) and not passes(high):
        low, high = high, min(2 * high, max(high + 1, len(sets) - 1))
    if high >= len(sets):
        return low, None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    found = _proven(state, search, _without(state, search.wanted, made_so, sets[high - 1]))
    return high, found if found.need(Judged).accuracies[name].verdict == "pass" else None


def _without(state: State, wanted: ExportConfig, made_so: tuple[Artifact, Artifact], layers: Sequence[str]) -> Artifact:
    first, source = made_so
    options = {**wanted.options, "leave_out": [glob.escape(each) for each in layers]}
    return export(state, wanted.model_copy(update={"options": options}), source, first)


def _proven(state: State, search: _Search, made: Artifact) -> State:
    family = second.with_descendants(state, made)
    again = search.prove(second.with_artifacts(state, family), set(family))
    again = again.adding(second.merged(state.need(Proven), again.need(Proven)))
    return accuracy.judged(again, search.wanted.name, search.shared)


def _ranked(state: State, search: _Search, first: Artifact, source: Artifact) -> tuple[tuple[str, ...], ...]:
    wanted = search.wanted
    gate = state.plan.config.gates[wanted.name].accuracy
    request = file_jobs.RankLayers(
        format=wanted.format,
        file=first.files[0],
        source=source.files[0],
        inputs=_inputs(state, search),
        outputs=() if gate is None or gate.metric else tuple(gate.outputs),
    )
    state.settings.report(Event("parity", f"{wanted.name} layers", "started"))
    with state.runner.start(f"the layers of {wanted.name}", threads=1, modules=("torch", "onnx")) as worker:
        found = worker.call(request, timeout_s=state.plan.config.limits.run_seconds)
    state.settings.report(Event("parity", f"{wanted.name} layers", "ended"))
    return found


def _inputs(state: State, search: _Search) -> dict[str, Array]:
    """Return the inputs of one call: the first samples that it is judged on, fewer where an allowed size is."""
    given = accuracy.of_one_call(state, search.wanted.name, search.shared)
    batch = samples.batch_dimension(state.plan.interface)
    elements = sum(math.prod(each.shape[1:]) for each in given.values())
    most = max(_FEWEST_ROWS, _ELEMENTS // max(elements, 1))
    sizes = [] if batch is None else [each for each in allowed(batch) if 0 < each <= most]
    rows = {len(each) for each in given.values() if each.ndim}
    if not sizes or len(rows) != 1 or max(rows) < max(sizes):
        return dict(given)
    return {name: each[: max(sizes)] for name, each in given.items()}
