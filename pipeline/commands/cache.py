"""weighbridge cache."""

from typing import Annotated

import typer

from pipeline.commands.shared import ARTIFACTS, Json, Out, next_command, print_json, settings_of


def cache(
    out: Out = ARTIFACTS,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was used longest ago.")] = False,
    keep_bytes: Annotated[
        int, typer.Option("--keep-bytes", metavar="BYTES", min=0, help="How much --prune leaves; default: nothing.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """List what is kept of finished stages, and the environments of replays, and how large it is; remove it with --prune."""
    from dataclasses import asdict

    from pipeline.fleet.environment import environments
    from pipeline.report.console import print_cache
    from pipeline.run.plan import results

    cached, others = results(settings_of(out, None, None)), environments(out)
    removed = cached.prune(keep_bytes) if prune else ()
    entries = cached.entries()
    left_bytes = max(keep_bytes - sum(each.size_bytes for each in entries), 0)
    removed_others = others.prune(left_bytes) if prune else ()
    kept_others = others.entries()
    if as_json:
        also = {"path": str(others.root), "entries": list(map(asdict, kept_others))}
        print_json(
            {"path": str(cached.root), "entries": list(map(asdict, entries)), "removed": list(map(asdict, removed))}
            | {"environments": also | {"removed": list(map(asdict, removed_others))}}
        )
    else:
        print_cache(cached.root, entries, removed)
        if kept_others or removed_others:
            print_cache(others.root, kept_others, removed_others, "environments")
        if (entries or kept_others) and not prune:
            typer.echo(
                f"next: {next_command('cache', '--prune', out=out)}  # all of it; --keep-bytes N leaves N bytes, the newest"
            )
