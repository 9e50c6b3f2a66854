"""A worker with a backend opened in it, and what it can be asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from pipeline.backends.backend import Session, Source
from pipeline.backends.placement import Placement
from pipeline.backends.table import backends
from pipeline.interface import Array, Arrays
from pipeline.worker.job import Context, Model, Request
from pipeline.worker.template import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.backends.variant import Variant
    from pipeline.interface import Interface
    from pipeline.rebuild.network import Network
    from pipeline.worker.runner import Runner, Worker

_MEMORY = {"resident": "VmRSS", "peak": "VmHWM"}
_CALLS_ON_DEVICE = 5


@dataclass(slots=True)
class _Opened:
    """The session that `Open` leaves, and by scenario the inputs and calls that `Bind` adds.

    `last`: the scenario that was timed last; `changed_ns`: what the first calls after others took, by scenario.
    """

    session: Session
    inputs: dict[str, Arrays] = field(default_factory=dict)
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    last: str | None = None
    changed_ns: dict[str, list[int]] = field(default_factory=dict)


class Facts(Model):
    """What an opened session tells of itself, how long importing and loading took, and the process's memory before."""

    session: dict[str, JsonValue]
    import_ms: float
    load_ms: float
    baseline_bytes: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return all of it as reports have it, in one mapping."""
        return {**self.session, **self.model_dump(exclude={"session"})}


class Open(Request[Facts]):
    """Open a model with a backend."""

    backend: str
    source: Source
    options: Mapping[str, JsonValue]
    is_lasting = True

    def run(self, context: Context) -> Facts:
        """Leave the session for all that follows."""
        chosen = backends()[self.backend]
        baseline_bytes = memory().resident_bytes
        start = time.perf_counter_ns()
        for module in chosen.modules:
            load(module)
        imported = time.perf_counter_ns()
        session = chosen.open(self.source, chosen.options.model_validate(self.options))
        loaded = time.perf_counter_ns()
        context.leave(_Opened(session))
        return Facts(
            session=dict(session.facts),
            import_ms=(imported - start) / 1e6,
            load_ms=(loaded - imported) / 1e6,
            baseline_bytes=baseline_bytes,
        )


class Run(Request[dict[str, Array]]):
    """Return the outputs by name."""

    inputs: dict[str, Array]

    def run(self, context: Context) -> dict[str, Array]:
        """Call the session once."""
        return context.find(_Opened).session.run(self.inputs)


class ReadFacts(Request[dict[str, JsonValue]]):
    """Return what the session tells of itself by now: some of it is known only once it was called."""

    def run(self, context: Context) -> dict[str, JsonValue]:
        """Ask the session."""
        return dict(context.find(_Opened).session.facts)


class ReadPlacement(Request[Placement | None]):
    """Return where the calls made so far ran; None if the backend cannot tell. Nothing is recorded after this."""

    def run(self, context: Context) -> Placement | None:
        """End the session's record."""
        placement = context.find(_Opened).session.placement
        return placement() if placement else None


class Bind(Request[None]):
    """Fix the inputs of a timed call. It is not made yet: the first call is a figure, taken when nobody else runs."""

    scenario: str
    inputs: dict[str, Array]
    is_lasting = True

    def run(self, context: Context) -> None:
        """Leave the inputs and the call."""
        opened = context.find(_Opened)
        opened.inputs[self.scenario], opened.calls[self.scenario] = self.inputs, opened.session.bind(self.inputs)


class TimeBlock(Request[list[int]]):
    """Time up to `calls` calls one by one, ending early after `longest_s`; return their durations in nanoseconds."""

    scenario: str
    calls: int
    longest_s: float

    def run(self, context: Context) -> list[int]:
        """Read the clock around each call, and do nothing else between.

        After other inputs a GPU's libraries look anew for an algorithm, which takes hundreds of times what a call does: that
        call is made before, and kept apart.
        """
        opened, clock = context.find(_Opened), time.perf_counter_ns
        call = opened.calls[self.scenario]
        if opened.session.bind_on_device and opened.last not in {None, self.scenario}:
            start = clock()
            call()
            opened.changed_ns.setdefault(self.scenario, []).append(clock() - start)
        opened.last = self.scenario
        durations = []
        end = clock() + int(self.longest_s * 1e9)
        for _ in range(self.calls):
            start = clock()
            call()
            stop = clock()
            durations.append(stop - start)
            if stop > end:
                break
        return durations


class TimeOnDevice(Request[list[int] | None]):
    """Time calls for about `seconds` in the device's own memory, in nanoseconds; None if the session is on the host."""

    scenario: str
    seconds: float

    def run(self, context: Context) -> list[int] | None:
        """Call a few times at once, so that the device is not waited for between."""
        opened = context.find(_Opened)
        if opened.session.bind_on_device is None:
            return None
        calls = opened.session.bind_on_device(opened.inputs[self.scenario])
        calls(_CALLS_ON_DEVICE)  # allocates
        end = time.perf_counter_ns() + int(self.seconds * 1e9)
        durations = calls(_CALLS_ON_DEVICE)
        while time.perf_counter_ns() < end:
            durations += calls(_CALLS_ON_DEVICE)
        return durations


class ReadChanges(Request[dict[str, list[int]]]):
    """Return how long the first call after other inputs took, in nanoseconds, by scenario; nothing of a session on the host."""

    def run(self, context: Context) -> dict[str, list[int]]:
        """Return what the blocks kept apart."""
        return context.find(_Opened).changed_ns


class Throughput(Model):
    """How many calls were made, and how long that took altogether."""

    calls: int
    seconds: float


class CallTogether(Request[Throughput]):
    """Call from `callers` threads at once for about `seconds`."""

    scenario: str
    callers: int
    seconds: float

    def run(self, context: Context) -> Throughput:
        """Bind for each thread, then let them all go."""
        opened, clock = context.find(_Opened), time.perf_counter_ns
        bound = [opened.session.bind(opened.inputs[self.scenario]) for _ in range(self.callers)]
        start = clock()
        end = start + int(self.seconds * 1e9)

        def work(call: Callable[[], object]) -> int:
            calls = 0
            while calls == 0 or clock() < end:
                call()
                calls += 1
            return calls

        with ThreadPoolExecutor(self.callers) as pool:
            calls = sum(pool.map(work, bound))
        return Throughput(calls=calls, seconds=(clock() - start) / 1e9)


class TimeTogether(Request[list[int]]):
    """Time up to `calls` calls, `callers` under way at once, ending early after `longest_s`; return each one's duration in nanoseconds."""

    scenario: str
    callers: int
    calls: int
    longest_s: float

    def run(self, context: Context) -> list[int]:
        """Bind for each thread, then let them all go, each with its share of the calls."""
        opened, clock = context.find(_Opened), time.perf_counter_ns
        bound = [opened.session.bind(opened.inputs[self.scenario]) for _ in range(self.callers)]
        share = max(self.calls // self.callers, 1)
        end = clock() + int(self.longest_s * 1e9)

        def work(call: Callable[[], object]) -> list[int]:
            durations = []
            for _ in range(share):
                start = clock()
                call()
                stop = clock()
                durations.append(stop - start)
                if stop > end:
                    break
            return durations

        with ThreadPoolExecutor(self.callers) as pool:
            return [each for durations in pool.map(work, bound) for each in durations][: self.calls]


class Memory(Model):
    """A process's resident memory now and at its peak."""

    resident_bytes: int
    peak_bytes: int


class ReadMemory(Request[Memory]):
    """Return the worker's resident memory now and at its peak."""

    def run(self, _: Context) -> Memory:
        """Ask the system."""
        return memory()


def memory() -> Memory:
    """Return this process's resident memory.

    Linux's getrusage is of no use: a child starts with the peak of the process that started it. Source: proc_pid_status(5).
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return Memory(**{f"{name}_bytes": int(lines[key].split()[0]) * 1024 for name, key in _MEMORY.items()})
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(resident_bytes=peak, peak_bytes=peak)


@contextmanager
def opened(  # noqa: PLR0913 - what opens, how, and in which process
    runner: Runner,
    variant: Variant,
    interface: Interface,
    network: Network | None,
    *,
    threads: int,
    timeout_s: float,
    profile: Path | None = None,
    fresh: bool = False,
) -> Iterator[tuple[Worker, dict[str, JsonValue]]]:
    """Start a worker, open `variant` in it, and yield it with the session's facts.

    `profile`: a folder to record in where its nodes run, for `ReadPlacement`. `fresh`: in a process that shares nothing with others.

    Raises:
        WeighbridgeError: the backend cannot run here, or opening crashed or took too long.
    """
    source = Source(interface, variant.file, None if variant.artifact else network, profile, variant.custom_ops)
    request = Open(backend=variant.backend, source=source, options=variant.options)
    modules = (*backends()[variant.backend].modules, __name__)
    with runner.start(variant.name, threads=threads, modules=modules, fresh=fresh) as worker:
        yield worker, worker.call(request, timeout_s=timeout_s).to_json()
