"""What a run is made of: stages, each of which states what it needs and what it adds, and what they have added so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from pipeline.release import bundle
from pipeline.run.plan import results
from pipeline.storage.cache import Cache
from pipeline.worker.event import Event
from pipeline.worker.process import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.run.plan import Plan, Settings
    from pipeline.storage.origin import Origin
    from pipeline.worker.runner import Runner

Added = TypeVar("Added")


@dataclass(frozen=True, slots=True)
class State:
    """A run's plan and settings, the folder it works in, and what its stages have added, by type.

    `elsewhere`: which results it took from other machines, by what they are about, and who made them.
    """

    plan: Plan
    settings: Settings
    work: Path
    added: Mapping[type, object] = field(default_factory=dict)
    elsewhere: dict[str, Origin] = field(default_factory=dict)

    @property
    def cache(self) -> Cache:
        """Where the run keeps its results; one that is to make everything again has a cache of its own."""
        if self.settings.rebuild:
            return Cache(self.work / "results")
        return replace(results(self.settings), used=self.elsewhere.__setitem__)

    @property
    def runner(self) -> Runner:
        """Where its jobs are done: in processes of their own, with the config's limits, unless the settings say otherwise."""
        name, limits = self.plan.config.name, self.plan.config.limits
        crashes = self.settings.out / name / bundle.CRASHES
        return self.settings.runner or LocalRunner(limits.memory_bytes, crashes)

    def need(self, kind: type[Added]) -> Added:
        """Return what a stage before has added.

        Raises:
            LookupError: none has; `run` refuses such an order of stages before any work starts.
        """
        found = self.added.get(kind)
        if not isinstance(found, kind):
            raise LookupError(  # noqa: TRY004 - what is missing is a stage
                f"no stage before this one adds {kind.__name__}"
            )
        return found

    def adding(self, *values: object) -> State:
        """Return the state with these values, each in place of an older one of its type."""
        return replace(self, added={**self.added, **{type(value): value for value in values}})


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a run: from a state that has all of `needs` to values of the types in `adds`."""

    name: str
    summary: str
    needs: tuple[type, ...]
    adds: tuple[type, ...]
    run: Callable[[State], tuple[object, ...]]


def run(state: State, stages: Sequence[Stage], why: str = "") -> State:
    """Run stages in order, the first with the reason why anything is run at all.

    Raises:
        LookupError: a stage needs what none before it adds; nothing was run.
    """
    _require_order(state, stages)
    name, report = state.plan.config.name, state.settings.report
    for stage in stages:
        report(Event(stage.name, name, "started", why if stage is stages[0] else "", is_stage=True))
        state = state.adding(*stage.run(state))
        report(Event(stage.name, name, "ended", is_stage=True))
    return state


def _require_order(state: State, stages: Sequence[Stage]) -> None:
    there = set(state.added)
    for stage in stages:
        if missing := [each.__name__ for each in stage.needs if each not in there]:
            raise LookupError(f"the stage {stage.name} needs {', '.join(missing)}, which no stage before it adds")
        there |= set(stage.adds)
