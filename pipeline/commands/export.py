"""weighbridge export."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.shared import (
    ARTIFACTS,
    CacheKey,
    CacheTrust,
    CacheUrl,
    Configs,
    Json,
    LogJson,
    MaxBytes,
    Out,
    Set,
    Trust,
    attempt,
    expanded,
    leave,
    next_command,
    print_json,
    settings_of,
    sharing,
)
from pipeline.errors import InputError, WeighbridgeError

if TYPE_CHECKING:
    from pipeline.run.export import Outcome, Result
    from pipeline.run.plan import Settings


def export(
    configs: Configs,
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    max_bytes: MaxBytes = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build again even if nothing changed.")] = False,
    benchmark: Annotated[bool, typer.Option(help="Time the backends; without it a release states no latency.")] = True,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this private key.")] = None,
    check_reproducible: Annotated[
        bool, typer.Option("--check-reproducible", help="Build twice, and fail unless both give the same bytes.")
    ] = False,
    reuse_timings: Annotated[
        bool, typer.Option("--reuse-timings", help="Do not time files again that were timed here before.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="COUNT", min=1, help="How many configs at once, here or on each node, as memory allows."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Take the I-th of N parts of the configs, from 1.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ENGINE", help="Export on a cluster: ray, or ray://HOST:PORT."),
    ] = None,
    cache: CacheUrl = None,
    cache_key: CacheKey = None,
    cache_trust: CacheTrust = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Export, prove and time a network, and write a release of what was proven.

    What is finished is kept: after an interruption or a change of the config, only the rest is made.
    """
    more = {
        "shared": sharing(cache, cache_key, cache_trust),
        "max_bytes": max_bytes,
        "rebuild": rebuild,
        "benchmark": benchmark,
        "sign": sign,
    }
    settings = settings_of(out, trust, set_, reuse_timings=reuse_timings, **more)
    configs = expanded(configs)
    if on and check_reproducible:
        raise InputError("--check-reproducible builds here, and --on elsewhere", hint="leave one of them out")
    if on:
        work = partial(_export_on, on, settings=settings, count=count, log_json=log_json)
    else:
        work = partial(_export, settings=settings, count=count or 1, log_json=log_json, twice=check_reproducible)

    def done(configs: list[Path]) -> list[dict[str, Any]]:
        groups = [[config] for config in configs] if not on and count in {None, 1} else [configs]
        return [each for group in groups if group for each in work(group, as_json=as_json)]

    outcomes = _part(configs, shard, settings, done) if shard else done(configs)
    if as_json:
        print_json({"runs": outcomes})
    elif release := next((each["release"] for each in outcomes if "release" in each), None):
        typer.echo(f"\nnext: {next_command('verify', release)}")
    leave(max((each["exit_code"] for each in outcomes), default=0))


def _part(
    configs: list[Path], shard: str, settings: "Settings", done: Callable[[list[Path]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Export a part of the configs, say which, and leave a record of it for `weighbridge merge`."""
    from pipeline.fleet.shards import shard as sharding

    part = sharding.take(configs, shard, settings.overrides)
    typer.echo(part.in_words(), err=True)
    sharding.keep(part, settings.out, settings.overrides)
    outcomes = done(list(part.configs.values()))
    sharding.keep(part, settings.out, settings.overrides, outcomes)
    return outcomes


def _export(
    configs: list[Path], *, settings: "Settings", count: int, log_json: bool, twice: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Export configs, print what came of each, and return that as JSON values."""
    from pipeline.report.progress import board, progress
    from pipeline.run.export import export_several, reproduce

    def shown(result: "Result") -> dict[str, Any]:
        found = _shown(result, as_json=as_json)
        if not twice:
            return found
        with progress(f"{result.config.stem}, once more", as_lines=log_json) as show:
            same = reproduce(result.config, replace(settings, report=show), Path(found["release"]))
        if not as_json:
            typer.echo(f"reproducible: a second build, elsewhere, gave the same bytes for all {len(same)} files")
        return found | {"reproducible": list(same)}

    with board(len(configs), as_lines=log_json) as begin:
        results = export_several(configs, settings, count, begin)
    return [{"config": str(each.config), **attempt(partial(shown, each), as_json=as_json)} for each in results]


def _export_on(
    on: str, configs: list[Path], *, settings: "Settings", count: int | None, log_json: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Export configs on a cluster, and print what came of each, those of one kind of node together; return that as JSON values."""
    from pipeline.fleet.ray.driver import export_on
    from pipeline.report.progress import board

    with board(len(configs), as_lines=log_json) as begin:
        placed = export_on(on, configs, settings, begin, count)
    kinds = list(dict.fromkeys(each.processor for each in placed))
    are_several = sum(map(bool, kinds)) > 1
    found = {}
    for kind in kinds:
        if are_several and kind and not as_json:
            typer.echo(f"\non {kind}:")
        for index, each in enumerate(placed):
            if each.processor == kind:
                found[index] = attempt(partial(_shown, each.result, as_json=as_json), as_json=as_json)
    return [{"config": str(config), **found[index]} for index, config in enumerate(configs)]


def _shown(result: "Result", *, as_json: bool) -> dict[str, Any]:
    """Print what came of a config, and return it as JSON values; raises what stopped it."""
    if isinstance(result.outcome, WeighbridgeError):
        raise result.outcome
    return _print_outcome(result.config, result.outcome, as_json=as_json)


def _print_outcome(config: Path, outcome: "Outcome", *, as_json: bool) -> dict[str, Any]:
    """Print what came of a run, with its table unless that was shown before; return it as JSON values."""
    found = {"release": str(outcome.release), "up_to_date": outcome.up_to_date, "why": outcome.why}
    if outcome.up_to_date and not as_json:
        typer.echo(f"up to date: {outcome.release}")
        return found
    from pipeline.report.document import read  # what a run with nothing to do can do without

    if as_json:
        return found | read(outcome.release).to_json()
    from pipeline.benchmark.leading import in_a_line
    from pipeline.release.recommended import unjudged
    from pipeline.release.standalone import read_manifest
    from pipeline.report.console import print_run

    documents = read(outcome.release)
    print_run(outcome.release.parent.name, documents)
    if said := in_a_line(documents.benchmark, unjudged(read_manifest(outcome.release))):
        typer.echo(f"{said} ({next_command('tune', config)} decides)")
    typer.echo(outcome.release)
    return found
