"""Run one config: recall its release, or build it alone under its name, and log how that went."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.errors import InputError, WeighbridgeError
from pipeline.release import bundle
from pipeline.report import log
from pipeline.run import keys as dependencies
from pipeline.run import recall
from pipeline.run.plan import at_once, noting, plan, results, worker_bytes
from pipeline.run.results import Released
from pipeline.run.state import State, run
from pipeline.storage.cache import LIMIT_BYTES
from pipeline.storage.store import atomic_write, canonical_json, lock, private_directory, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.run.plan import Plan, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an export came to: the release, whether it was there already, and why or why not."""

    release: Path
    up_to_date: bool
    why: str


def export(path: Path, settings: Settings) -> Outcome:
    """Run every stage for one config, unless its release is there and nothing it depends on has changed.

    How it went is written to `<name>/run.json`, whether it succeeds or not.

    Raises:
        WeighbridgeError: whatever stopped it; what was found until then is under `failed/` if a gate closed.
    """
    planned = plan(path, settings)
    recorder = log.Recorder(settings.report)
    with _recorded(recorder, planned.config.name, settings.out) as facts:
        outcome = _exported(planned, replace(settings, report=recorder))
        facts |= {"release": outcome.release.name, "up_to_date": outcome.up_to_date, "why": outcome.why}
    return outcome


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
    for place in (settings.out, folder, results(settings).root):
        sweep(place)
    built_from = dependencies.of_release(planned, settings)
    recalled = recall.recall(settings.out, name, built_from)
    if recalled.release and not settings.rebuild:
        return Outcome(recalled.release, up_to_date=True, why=recalled.why)
    need_bytes = at_once(planned, settings) * worker_bytes(planned)
    with _one_at_a_time(name, settings), settings.turns.take(need_bytes) as alone:
        recalled = recall.recall(settings.out, name, built_from)  # somebody else may just have built it
        if recalled.release and not settings.rebuild:
            return Outcome(recalled.release, up_to_date=True, why=recalled.why)
        shutil.rmtree(folder / bundle.CRASHES, ignore_errors=True)
        why = "asked for" if recalled.release else recalled.why
        with private_directory(folder) as work:
            release = _built(State(planned, replace(settings, alone=alone), work), why)
        recall.remember(settings.out, name, built_from, release)
    with suppress(InputError):  # another run uses the cache: that one will see to it
        results(settings).prune(LIMIT_BYTES)
    return Outcome(release, up_to_date=False, why=why)


def _built(state: State, why: str) -> Path:
    from pipeline.run.stages import STAGES  # what a run with nothing to do can do without

    return run(state, STAGES, why).need(Released).path


@contextmanager
def _one_at_a_time(name: str, settings: Settings) -> Iterator[None]:
    """Let nobody else build this name here while the block runs, and nobody remove what is kept."""
    message = f"waiting for another process that exports {name} to {settings.out}"
    with lock(settings.out / name / ".run.lock", message, noting(settings)), results(settings).in_use():
        yield
