"""weighbridge merge."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import ARTIFACTS, Json, complain, leave, next_command, print_json


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders that exports wrote to.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where all of it goes.")] = ARTIFACTS,
    as_json: Json = False,
) -> None:
    """Put together what exports on several machines wrote: releases, and what failed. Exit 1 if anything did, or a shard is missing."""
    from pipeline.fleet.shards.merge import merge as put_together

    found = put_together(folders, out, lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(found.to_json())
        leave(found.exit_code)
        return
    for each in found.names:
        typer.echo(each.in_words())
        for note in each.notes:
            typer.echo(f"  {note}")
        if each.error:
            complain(each.error)
    for config, why in found.failures.items():
        typer.echo(f"failed: {config}: {why}", err=True)
    for problem in found.shards:
        typer.echo(f"error: {problem}", err=True)
    typer.echo(found.in_words())
    if not found.exit_code:
        typer.echo(f"\nnext: {next_command('league', out)}")
    leave(found.exit_code)
