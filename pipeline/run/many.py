"""Export several configs, a few at a time; one that fails does not stop the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.errors import WeighbridgeError
from pipeline.run import build as driver
from pipeline.run.slots import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipeline.run.build import Outcome
    from pipeline.run.plan import Settings
    from pipeline.worker.event import Event

    Begin = Callable[[str], AbstractContextManager[Callable[[Event], None]]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one config: an outcome, or the error that ended it."""

    config: Path
    outcome: Outcome | None = None
    error: WeighbridgeError | None = None


def export(configs: Sequence[Path], settings: Settings, jobs: int, begin: Begin) -> list[Result]:
    """Export configs, up to `jobs` at once as far as memory allows; return their results in the order of the configs.

    `begin(name)` gives a context with a callback for one run's events.
    """
    shared = replace(settings, turns=Turns(jobs, settings.turns.memory_bytes))

    def one(config: Path) -> Result:
        try:
            with begin(config.stem) as show:
                return Result(config, driver.export(config, replace(shared, report=show)))
        except WeighbridgeError as error:
            return Result(config, error=error)

    # More threads than jobs: one that only waits to be timed needs no memory of its own.
    with ThreadPoolExecutor(max(jobs, len(configs))) as pool:
        try:
            return list(pool.map(one, configs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
