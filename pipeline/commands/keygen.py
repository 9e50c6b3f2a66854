"""weighbridge keygen."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, next_command, print_json


def keygen(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="Writes NAME.pem, to keep secret, and NAME.pub.pem, to hand out.")
    ],
    as_json: Json = False,
) -> None:
    """Make a pair of keys: one to sign releases with, one to verify them with."""
    from pipeline.release.signing import generate

    private, public = generate(name)
    if as_json:
        print_json({"private": str(private), "public": str(public)})
    else:
        typer.echo(f"{private}  keep it secret\n{public}  hand it out")
        typer.echo(f"next: {next_command('export', 'CONFIG', '--sign', private)}  # CONFIG: yours")
        typer.echo(f"then: {next_command('verify', 'RELEASE', '--key', public)}  # RELEASE: what the export wrote")
