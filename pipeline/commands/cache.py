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
    """List what is kept of finished stages, and how large it is; remove it with --prune."""
    from dataclasses import asdict

    from pipeline.report.console import print_cache
    from pipeline.run.plan import results

    cached = results(settings_of(out, None, None))
    removed = cached.prune(keep_bytes) if prune else ()
    entries = cached.entries()
    if as_json:
        print_json(
            {"path": str(cached.root), "entries": list(map(asdict, entries)), "removed": list(map(asdict, removed))}
        )
    else:
        print_cache(cached.root, entries, removed)
        if entries and not prune:
            typer.echo(
                f"next: {next_command('cache', '--prune', out=out)}  # all of it; --keep-bytes N leaves N bytes, the newest"
            )
