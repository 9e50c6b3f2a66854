"""weighbridge tune."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import (
    ARTIFACTS,
    CacheKey,
    CacheTrust,
    CacheUrl,
    Json,
    LogJson,
    Out,
    Set,
    Trust,
    next_command,
    point_to,
    print_json,
    settings_of,
    sharing,
)


def tune(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A config; its release is made first if it is not there.")
    ],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="SECONDS", min=0.1, help="How long to time; default: tune.seconds."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", metavar="WHAT", help="latency, throughput, memory or size; default: tune.objective."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Time everything again, whatever was kept of an earlier run.")
    ] = False,
    cache: CacheUrl = None,
    cache_key: CacheKey = None,
    cache_trust: CacheTrust = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Choose the best of the proven ways to run a release: artifact, backend, threads, options.

    Each way is proven with its options, then all are timed against each other; the winner is confirmed in new launches. The answer is
    added to the release's report, and predict, load_release and package use it. What was timed is kept: after an interruption,
    or with more --seconds, it goes on.
    """
    from pipeline.report.console import print_recommended
    from pipeline.report.progress import progress
    from pipeline.run.tune import tune as run

    shared = sharing(cache, cache_key, cache_trust)
    chosen = [*(set_ or ()), *([f"tune.seconds={seconds}"] if seconds else ())]
    chosen += [f"tune.objective={objective}"] if objective else []
    with progress(config.stem, as_lines=log_json) as show:
        tuned = run(config, replace(settings_of(out, trust, chosen, shared=shared), report=show), again=again)
    found = tuned.found
    if as_json:
        print_json({"release": str(tuned.release), "recommended": found.to_json()})
        return
    print_recommended(found)
    typer.echo(tuned.release)
    if found.more_s is not None:
        longer = [
            "--seconds",
            f"{found.budget_s + found.more_s:.0f}",
            *(["--objective", objective] if objective else []),
        ]
        again_ = next_command("tune", config, *longer, trust=trust, overrides=set_, out=out)
        typer.echo(f"\nnext: {again_}  # goes on from here: more launches may tell them apart")
        point_to("not-told-apart")
    else:
        typer.echo(f"\nnext: {next_command('predict', tuned.release, '--example')}")
