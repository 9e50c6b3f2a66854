"""Export configs: each release is found up to date, or built under its name by one process alone, with a log of how that went."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.errors import GateError, InputError, WeighbridgeError
from pipeline.release import bundle
from pipeline.report import log
from pipeline.run import keys as dependencies
from pipeline.run import up_to_date
from pipeline.run.plan import at_once, noting, plan, results, sweep_away, worker_bytes
from pipeline.run.slots import Slots
from pipeline.storage.cache import LIMIT_BYTES
from pipeline.storage.store import atomic_write, canonical_json, lock, private_directory
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.report.progress import Begin
    from pipeline.run.plan import Plan, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an export came to: the release, whether it was there already, and why or why not."""

    release: Path
    up_to_date: bool
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one of several configs."""

    config: Path
    outcome: Outcome | WeighbridgeError


def export_several(configs: Sequence[Path], settings: Settings, count: int, begin: Begin) -> list[Result]:
    """Export configs, up to `count` at once as far as memory allows; return their results in the order of the configs.

    One that fails does not stop the others. `begin(name)` gives a context with a callback for one run's events.
    """
    shared = replace(settings, slots=Slots(count, settings.slots.memory_bytes))

    def one(config: Path) -> Result:
        try:
            with begin(config.stem) as show:
                return Result(config, export(config, replace(shared, report=show)))
        except WeighbridgeError as error:
            return Result(config, error)

    # More threads than slots: one that only waits to be timed needs no memory of its own.
    with ThreadPoolExecutor(max(count, len(configs))) as pool:
        try:
            return list(pool.map(one, configs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def export(path: Path, settings: Settings) -> Outcome:
    """Run every stage for one config, unless its release is there and nothing it depends on has changed.

    How it went is written to `<name>/run.json`, whether it succeeds or not.

    Raises:
        WeighbridgeError: whatever stopped it; what was found until then is under `failed/` if a gate closed.
    """
    planned = plan(path, settings)
    recorder = log.Recorder(settings.report, log.usual_s(settings.out / planned.config.name / log.RUN))
    with _recorded(recorder, planned.config.name, settings.out) as facts:
        outcome = _exported(planned, replace(settings, report=recorder))
        facts |= {"release": outcome.release.name, "up_to_date": outcome.up_to_date, "why": outcome.why}
    if said := recorder.where_time_went():
        settings.report(Event("", planned.config.name, "noted", said))
    return outcome


def reproduce(path: Path, settings: Settings, release: Path) -> tuple[str, ...]:
    """Build a config again, in another directory and without timing it; return the files that came out the same.

    Files of formats that say why they vary are left out, and so is what states their digests.

    Raises:
        GateError: a file outside `report/` came out with other bytes; it is named.
    """
    with private_directory(settings.out) as elsewhere:
        again = export(path, replace(settings, out=elsewhere, rebuild=True, benchmark=False)).release
        first, second = bundle.file_digests(release), bundle.file_digests(again)
        varying = bundle.varying_files(release)
    first, second = ({name: each for name, each in all_.items() if name not in varying} for all_ in (first, second))
    if differing := sorted(name for name in first | second if first.get(name) != second.get(name)):
        raise GateError(
            f"{path} is not reproducible: a second build gave other bytes for {', '.join(differing)}",
            hint="look for what depends on time, order or chance in the network's code, or in an exporter of another package",
            about="not-reproducible",
        )
    return tuple(sorted(first))


@contextmanager
def _recorded(recorder: log.Recorder, name: str, out: Path) -> Iterator[dict[str, Any]]:
    """Write run.json when the block ends, however it does, with the facts that it adds to the yielded dictionary."""
    facts: dict[str, Any] = {"weighbridge": __version__}
    code = 0
    try:
        yield facts
    except BaseException as error:
        code = getattr(error, "exit_code", 4)
        facts["error"] = str(error) or type(error).__name__
        raise
    finally:
        with suppress(WeighbridgeError, OSError):  # a log that cannot be written must not hide what it is about
            atomic_write(out / name / log.RUN, canonical_json(recorder.summary(name, exit_code=code, **facts)))


def _exported(planned: Plan, settings: Settings) -> Outcome:
    name, folder = planned.config.name, settings.out / planned.config.name
    sweep_away(name, settings)
    built_from = dependencies.of_release(planned, settings)
    earlier = up_to_date.find(settings.out, name, built_from)
    if earlier.release and not settings.rebuild:
        return Outcome(earlier.release, up_to_date=True, why=earlier.why)
    need_bytes = at_once(planned, settings) * worker_bytes(planned)
    with _one_at_a_time(name, settings), settings.slots.take(need_bytes) as alone:
        earlier = up_to_date.find(settings.out, name, built_from)  # somebody else may just have built it
        if earlier.release and not settings.rebuild:
            return Outcome(earlier.release, up_to_date=True, why=earlier.why)
        shutil.rmtree(folder / bundle.CRASHES, ignore_errors=True)
        why = "asked for" if earlier.release else earlier.why
        with private_directory(folder) as work:
            release = _built(planned, replace(settings, alone=alone), work, why)
        up_to_date.remember(settings.out, name, built_from, release)
    with suppress(InputError):  # another run uses the cache: that one will see to it
        results(settings).prune(LIMIT_BYTES)
    return Outcome(release, up_to_date=False, why=why)


def _built(planned: Plan, settings: Settings, work: Path, why: str) -> Path:
    from pipeline.run.stages.state import State, run  # what a run with nothing to do can do without

    state = State(planned, settings, work)
    if not state.cache.has(dependencies.of_oracle(planned)):
        state.runner.expect(["torch"])  # the longest of all that the first worker waits for
    from pipeline.run.stages.results import Released
    from pipeline.run.stages.table import STAGES

    return run(state, STAGES, why).need(Released).path


@contextmanager
def _one_at_a_time(name: str, settings: Settings) -> Iterator[None]:
    """Let nobody else build this name here while the block runs, and nobody remove what is kept."""
    message = f"waiting for another process that exports {name} to {settings.out}"
    with lock(settings.out / name / ".run.lock", message, noting(settings)), results(settings).in_use():
        yield
