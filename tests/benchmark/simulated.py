"""Workers in simulated time: starting, calling and stopping move a clock that tests can read."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.benchmark.measurements import WorkerFacts
from pipeline.benchmark.rounds import Arm
from pipeline.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.benchmark.measurements import Launch


@dataclass
class World:
    """A clock, and what the workers did by it."""

    now_s: float = 100.0
    alive: int = 0
    launched: list[str] = field(default_factory=list)
    blocks: list[tuple[str, str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clock(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        with self.lock:
            self.now_s += seconds

    def arm(
        self,
        name: str,
        *,
        call_ms: float | Callable[[int], float] = 1.0,
        start_s: float = 0.25,
        stop_s: float = 0.0,
        lives_for: int | None = None,
        longest: int = 1 << 30,
    ) -> Arm:
        """A backend whose n-th call (from 0) takes `call_ms`, and whose worker dies at its `lives_for`-th block.

        It ends a block after `longest` calls.
        """

        @contextmanager
        def launch() -> Iterator[Simulated]:
            self.pass_s(start_s)
            with self.lock:
                self.launched.append(name)
                self.alive += 1
            yield Simulated(self, name, call_ms if callable(call_ms) else lambda _: call_ms, lives_for, longest)
            self.pass_s(stop_s)
            self.alive -= 1

        return Arm(name, launch)


@dataclass
class Simulated:
    world: World
    name: str
    call_ms: Callable[[int], float]
    lives_for: int | None
    longest: int
    blocks: int = 0
    calls: int = 0

    @property
    def facts(self) -> WorkerFacts:
        return WorkerFacts.from_json({"import_ms": 12.5, "blocks": self.blocks})

    def block(self, scenario: str, calls: int) -> list[int]:
        if self.blocks == self.lives_for:
            raise WorkerError(f"{self.name} was ended by SIGSEGV")
        calls = min(calls, self.longest)
        durations_ns = [round(self.call_ms(self.calls + index) * 1e6) for index in range(calls)]
        self.blocks += 1
        self.calls += calls
        self.world.blocks.append((self.name, scenario, calls))
        self.world.pass_s(sum(durations_ns) / 1e9)
        return durations_ns


def telling(launch: Launch, *names: str, **facts: object) -> Launch:
    """Return a launch in which the arms of these names (all, without) told more of themselves."""
    arms = {
        name: replace(arm, facts=arm.facts.model_copy(update=facts)) if not names or name in names else arm
        for name, arm in launch.arms.items()
    }
    return replace(launch, arms=arms)
