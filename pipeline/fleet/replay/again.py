"""The configs that releases were built from: their networks, and exporting them again, under other versions of what builds them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import NETWORK
from pipeline.errors import InputError, command
from pipeline.fleet.exporter import Exporter
from pipeline.fleet.replay.trial import Checked, Described, Finding, Limits, Result, Way
from pipeline.release import standalone
from pipeline.release import verify as verifying
from pipeline.run.plan import plan
from pipeline.run.verify import stated
from pipeline.storage.store import private_directory, sweep
from pipeline.worker.event import Event
from pipeline.worker.start import below

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.run.plan import Settings

EXPORT = "export"
"""The way that is no backend: the config is exported again, with every gate that it has."""
_REPLAYS = Path(".cache", "replays")


def described(configs: Sequence[Path], releases: Sequence[Checked], settings: Settings) -> tuple[Checked, ...]:
    """Return releases with two ways more for each that one of the configs describes: its network itself, and its export.

    Raises:
        InputError: a config describes none of them, or a release is made of something else.
        WeighbridgeError: a config cannot be planned.
    """
    found = [Described(path, plan(path, settings), settings) for path in configs]
    known = {each.planned.config.name: each for each in found}
    names = {each.name for each in releases}
    for name, each in known.items():
        if name not in names:
            raise InputError(
                f"{each.path} describes {name}, and none of these releases is of that name",
                hint=f"name its release too: {settings.out / name}",
            )
    return tuple(_with_ways(each, known[each.name]) if each.name in known else each for each in releases)


def _with_ways(release: Checked, source: Described) -> Checked:
    manifest = standalone.read_manifest(release.path)
    if problems := verifying.differences(manifest, stated(source.planned)):
        raise InputError(
            f"{release.path} is not made of what {source.path} says: {problems[0]}",
            hint=f"export it, or give the config that it was built from: {command('export', source.path)}",
        )
    file = str(source.path)
    network, export = (Way(each, each, "", file, {}, is_required=True, source=source) for each in (NETWORK, EXPORT))
    return replace(release, ways=(network, *release.ways, export))


def exported(way: Way, above: Sequence[str], limits: Limits, report: Callable[[Event], None]) -> Result:
    """Export a config from nothing where the folders `above` come before what is installed; the release is not kept.

    Whatever becomes of it is a finding.

    Raises:
        InterruptedRunError: the run was interrupted.
    """
    assert way.source is not None  # noqa: S101 - it is what makes this way
    settings = way.source.settings
    place = settings.out / _REPLAYS
    sweep(place)
    with private_directory(place) as folder:
        order = _order(way.source, folder.absolute(), limits)
        answer = _answer(order, above, report)
    if failure := answer.get("failure"):
        return Result(way, "breaks", None, (Finding(failure["message"]),))
    return Result(way, "holds")


def _order(source: Described, out: Path, limits: Limits) -> dict[str, Any]:
    return {
        "config": str(source.path.absolute()),
        "out": str(out),
        "directory": str(Path.cwd()),
        "folders": [],
        "variables": {},
        "trust": list(source.settings.trust),
        "overrides": ["release.sign=null"] if source.planned.config.release.sign else [],
        "rebuild": True,
        "benchmark": False,
        "reuse_timings": False,
        "max_bytes": source.settings.max_bytes,
        "memory_bytes": limits.memory_bytes or source.settings.slots.memory_bytes,
        "expected": None,
    }


def _answer(order: dict[str, Any], above: Sequence[str], report: Callable[[Event], None]) -> dict[str, Any]:
    exporter = Exporter(os.environ | below(above))
    try:
        exporter.ask(order)
        for told in exporter.told():
            if "event" in told:
                report(Event(**told["event"]))
            if "end" in told:
                answer: dict[str, Any] = told["end"]
                return answer
        return exporter.lost(Path(order["config"]).name)
    finally:
        exporter.end()
