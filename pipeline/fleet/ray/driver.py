"""Export configs on a cluster of Ray's: a task a config, planned here, its results written here as if it had been exported here."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import STOPPING, InterruptedRunError, UnavailableError, WeighbridgeError, WorkerError
from pipeline.fleet.child import ELSEWHERE
from pipeline.fleet.ray import cluster, travel
from pipeline.fleet.ray.deliver import Delivery
from pipeline.fleet.ray.task import End, Line, Order, Piece, Started, on_ray
from pipeline.report.log import RUN
from pipeline.run import keys, up_to_date
from pipeline.run.export import Outcome, Result
from pipeline.run.plan import plan, sweep_away
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.fleet.ray.cluster import Needs
    from pipeline.fleet.ray.travel import Pack
    from pipeline.report.progress import Begin
    from pipeline.run.plan import Plan, Settings

MOST_LOST = 8
"""How often a config's task may be lost with its worker or node before that is taken for the config's own doing."""
PROVE, TIME = "proof", "timing"
_WAIT_S, _LOOK_S, _CANCEL_S, _BARREN_S = 0.5, 5.0, 8.0, 60.0
_HEADLESS_S = 30.0
"""How long a cluster may be without its head: half of what Ray waits for before it ends this process."""
_AHEAD = 2
"""So many tasks a core are handed to Ray ahead of time: enough that no node waits, and few enough that files do not pile up."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a config, and the processor that it was built and timed on; "" where nothing was built."""

    result: Result
    processor: str


def export_on(
    on: str, configs: Sequence[Path], settings: Settings, begin: Begin, jobs: int | None = None
) -> list[Placed]:
    """Export configs on a cluster; return their results in the order of the configs. `jobs`: how many at once on a node.

    One that fails does not stop the others. A task that is lost with its worker or node is done again.

    Raises:
        InputError, UnavailableError: there is no such engine or cluster.
        InterruptedRunError: the run was stopped; every task is ended.
    """
    cluster.require_engine(on)
    with ExitStack() as held:
        fleet = _Fleet(configs, settings, begin, jobs, lambda: held.enter_context(cluster.connected(on)))
        try:
            return fleet.run()
        except BaseException:
            fleet.stop()
            _require_going()  # what a signal does inside Ray comes as one of many
            raise


@dataclass(frozen=True, slots=True)
class _Planned:
    """A config that has to be built: from what, and why."""

    plan: Plan
    parts: dict[str, Any]
    why: str


@dataclass(slots=True, eq=False)
class _Work:
    """One config that is being exported: what is known of it, the steps that are left, and how often it was lost."""

    index: int
    planned: Plan
    packed: Pack
    needs: Needs
    parts: dict[str, Any]
    delivery: Delivery
    steps: list[str]
    show: Callable[[Event], None] | None = None
    held: ExitStack = field(default_factory=ExitStack)
    address: str = ""
    node: str = ""
    lost: int = 0
    barren_s: float | None = None
    end: End | None = None

    @property
    def name(self) -> str:
        return self.planned.config.name

    def tell(self, event: Event) -> None:
        if self.show is not None:
            self.show(event)


class _Fleet:
    """The configs of a run: those that wait, those whose tasks run, and what became of the others."""

    def __init__(
        self,
        configs: Sequence[Path],
        settings: Settings,
        begin: Begin,
        jobs: int | None,
        connect: Callable[[], None],
    ) -> None:
        self._configs, self._settings, self._begin, self._jobs = configs, settings, begin, jobs
        self._connect: Callable[[], None] | None = connect
        self._task: Any = None
        self._waiting = deque(enumerate(configs))
        self._running: dict[Any, _Work] = {}
        self._results: dict[int, Placed] = {}
        self._kept: dict[str, Any] = {}
        self._uses: Counter[str] = Counter()
        self._nodes: list[cluster.Node] = []
        self._looked_s = time.monotonic()
        self._headless_s: float | None = None

    def run(self) -> list[Placed]:
        """Export them all; a cluster is joined when there is something for it to do."""
        while self._waiting or self._running:
            cores = sum(each.resources.get("CPU", 0.0) for each in self._nodes)
            while self._waiting and len(self._running) < max(_AHEAD * cores, 4):
                self._begin_with(*self._waiting.popleft())
            if not self._running:
                continue
            import ray

            _require_going()
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_WAIT_S)
            for task in ready:
                self._take(task, self._running[task])
            if time.monotonic() - self._looked_s > _LOOK_S:
                self._look()
        return [self._results[index] for index in range(len(self._configs))]

    def stop(self) -> None:
        """End every task, and wait a moment for what they have to put away."""
        if not self._running:
            return
        import ray

        tasks = list(self._running)
        for task in tasks:
            with suppress(Exception):
                ray.cancel(task, force=False)
        until_s = time.monotonic() + _CANCEL_S
        while tasks and time.monotonic() < until_s:
            ready, _ = ray.wait(tasks, num_returns=1, timeout=_WAIT_S)
            for task in ready:
                try:
                    next(task)
                except Exception:  # noqa: BLE001 - that it is cancelled comes as one of many
                    tasks.remove(task)
        for work in self._running.values():
            work.delivery.forget()
            work.held.close()

    def _begin_with(self, index: int, path: Path) -> None:
        """Plan a config, and send it away unless it is up to date or wrong."""
        try:
            found = self._planned(path)
            if isinstance(found, Outcome):
                self._results[index] = Placed(Result(path, found), "")
                return
        except WeighbridgeError as error:
            self._results[index] = Placed(Result(path, error), "")
            return
        self._join()  # whatever stops that stops the run
        try:
            self._send(self._prepared(index, path, found))
        except WeighbridgeError as error:
            self._results[index] = Placed(Result(path, error), "")

    def _planned(self, path: Path) -> _Planned | Outcome:
        settings = self._settings
        planned = plan(path, settings, runs_here=False)
        parts = keys.of_release(planned, settings)
        name = planned.config.name
        sweep_away(name, settings)
        earlier = up_to_date.find(settings.out, name, parts, ELSEWHERE)
        if earlier.release and not settings.rebuild:
            return Outcome(earlier.release, up_to_date=True, why=earlier.why)
        return _Planned(planned, parts, "asked for" if earlier.release else earlier.why)

    def _join(self) -> None:
        if self._connect is not None:
            self._connect()
            import ray

            self._connect, self._nodes = None, cluster.nodes()
            self._task = ray.remote(on_ray)

    def _prepared(self, index: int, path: Path, found: _Planned) -> _Work:
        settings, planned = self._settings, found.plan
        steps = [PROVE] if not settings.benchmark else [TIME] if settings.rebuild else [PROVE, TIME]
        needs = cluster.needs(planned, self._nodes, self._jobs, benchmark=settings.benchmark)
        packed = travel.pack(path, planned, settings)
        return _Work(index, planned, packed, needs, found.parts, Delivery(planned, settings, found.why), steps)

    def _send(self, work: _Work) -> None:
        """Hand a config's next step to Ray, with its files where they are not there yet."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        step, needs = work.steps[0], work.needs
        for digest in work.packed.here:
            self._keep(digest, work.packed.here[digest])
        self._uses.update(list(work.packed.here))
        share = 1.0 if step == TIME else needs.share
        # What is built is in the cache of the node that built it.
        near = NodeAffinitySchedulingStrategy(work.node, soft=True) if work.node else "SPREAD"
        task = self._task.options(
            name=f"weighbridge {step} of {work.name}",
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory_bytes,
            resources={} if share is None else {cluster.NODE: share},
            num_returns="streaming",
            max_retries=0,  # a task that is done again tells other things: we do it again ourselves
            scheduling_strategy=near,
        ).remote(self._order(work, step), {digest: self._kept[digest] for digest in work.packed.here})
        work.end = None
        self._running[task] = work

    def _keep(self, digest: str, file: Path) -> None:
        """Put a file into Ray's store, once for all that need it."""
        import numpy as np
        import ray

        if digest not in self._kept:
            self._kept[digest] = ray.put(np.fromfile(file, np.uint8))

    def _order(self, work: _Work, step: str) -> Order:
        settings, config = self._settings, work.planned.config
        usual = settings.out / work.name / RUN
        unsigned = ["release.sign=null"] if config.release.sign else []
        return Order(
            name=work.name,
            packed=replace(work.packed, here={}),
            settings={
                "trust": list(settings.trust),
                "overrides": [*settings.overrides, *unsigned],
                "rebuild": settings.rebuild,
                "benchmark": step == TIME,
                "reuse_timings": settings.reuse_timings,
                "max_bytes": settings.max_bytes,
                "memory_bytes": work.needs.memory_bytes,
                "expected": work.parts,
                "shared": travel.shared(settings),
            },
            usual=usual.read_bytes() if usual.is_file() else None,
            keeps_release=len(work.steps) == 1,
        )

    def _take(self, task: Any, work: _Work) -> None:
        """Take in the next thing that a task gives, or how it ended."""
        import ray
        from ray import exceptions

        try:
            item = ray.get(next(task))
        except StopIteration:
            self._done(task, work) if work.end is not None else self._lost(task, work, "ended without a result")
        except (exceptions.RayTaskError, exceptions.TaskUnschedulableError, exceptions.RuntimeEnvSetupError) as error:
            self._close(task, work, _defect(work, error))
        except exceptions.RayError as error:
            _require_going()
            self._lost(task, work, type(error).__name__)
        else:
            self._told(work, item)

    def _told(self, work: _Work, item: object) -> None:
        if isinstance(item, Started):
            if work.show is None:
                work.show = work.held.enter_context(self._begin(self._configs[work.index].stem))
            work.node, work.address = item.node, item.address
            work.tell(Event("ray", item.address, "started", work.steps[0]))
        elif isinstance(item, Line):
            work.tell(Event(**item.event))
        elif isinstance(item, Piece):
            work.delivery.add(item)
        elif isinstance(item, End):
            work.end = item

    def _done(self, task: Any, work: _Work) -> None:
        """Go on with the next step of a config, or write what came of it."""
        assert work.end is not None  # noqa: S101 - it has just been told
        work.tell(Event("ray", work.address, "failed" if "failure" in work.end.answer else "ended", work.steps[0]))
        if "failure" not in work.end.answer and len(work.steps) > 1:
            del work.steps[0]
            self._send(work)
            self._forget(task)
            return
        try:
            self._close(task, work, work.delivery.finish(work.end, work.packed))
        except WeighbridgeError as error:
            self._close(task, work, error)

    def _lost(self, task: Any, work: _Work, how: str) -> None:
        """Send a config again whose task is gone, unless that happens too often."""
        work.lost += 1
        work.delivery.forget()
        where = f" on {work.address}" if work.address else ""
        if work.lost >= MOST_LOST:
            error = WorkerError(
                f"the task of {work.name} was lost {work.lost} times, the last time{where}: {how}",
                hint="see the node's log for what ended it: often it is out of memory",
            )
            self._close(task, work, error)
            return
        if work.address:
            work.tell(Event("ray", work.address, "failed", how))
        work.tell(Event("ray", work.name, "noted", f"its task was lost{where} ({how}): it is done again, and goes on"))
        work.node = ""
        self._look_again()
        self._send(work)
        self._forget(task)

    def _close(self, task: Any, work: _Work, outcome: Outcome | WeighbridgeError) -> None:
        self._forget(task)
        work.delivery.forget()
        work.held.close()
        processor = work.end.answer.get("processor", "") if work.end else ""
        self._results[work.index] = Placed(Result(self._configs[work.index], outcome), processor)

    def _forget(self, task: Any) -> None:
        """Let go of a task, and of files that no other one needs."""
        work = self._running.pop(task)
        self._uses.subtract(list(work.packed.here))
        for digest in work.packed.here:
            if not self._uses[digest]:
                self._kept.pop(digest, None)

    def _look_again(self) -> bool:
        """See which nodes there are now, and return whether that is known; raises UnavailableError once the head is gone for good."""
        self._looked_s = time.monotonic()
        if cluster.answers():
            self._headless_s, self._nodes = None, cluster.nodes()
            return True
        self._headless_s = self._headless_s or self._looked_s
        if self._looked_s - self._headless_s > _HEADLESS_S:
            raise UnavailableError(
                f"the cluster's head has not answered for {_HEADLESS_S:.0f} s",
                hint="start the cluster again, then run the same command: it goes on with what is there already",
            )
        return False

    def _look(self) -> None:
        """Give up on what no node can take, once that has been so for a while."""
        import ray

        if not self._look_again():
            return
        for task, work in list(self._running.items()):
            if any(work.needs.fits(each) for each in self._nodes):
                work.barren_s = None
                continue
            work.barren_s = work.barren_s or self._looked_s
            if self._looked_s - work.barren_s < _BARREN_S:  # a node may be on its way
                continue
            with suppress(Exception):
                ray.cancel(task, force=True)
            error = UnavailableError(
                f"no node is left that has what {work.name} needs", hint="start nodes, and run the same command again"
            )
            self._close(task, work, error)


def _require_going() -> None:
    """Raise InterruptedRunError once the run is stopped: an exception in a signal's handler may get lost inside Ray."""
    if STOPPING.is_set():
        raise InterruptedRunError


def _defect(work: _Work, error: Exception) -> WeighbridgeError:
    """Return what is said of a task that could not even begin, or ended in a way that nobody expected."""
    said = str(getattr(error, "cause", None) or error).strip().splitlines()[-1][:300]
    if isinstance(error.__cause__, ModuleNotFoundError) or "ModuleNotFoundError" in str(error):
        return UnavailableError(
            f"a node cannot run the task of {work.name}: {said}",
            hint="install weighbridge, as it is here, on every node of the cluster",
        )
    return WorkerError(
        f"the task of {work.name} failed: {said}", hint="install the same version on every node of the cluster"
    )
