"""weighbridge explain."""

from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from pipeline.commands.shared import Json, print_json


def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A verdict or a kind of error; without it: all names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a verdict or an error means, why it happens and what to do."""
    from pipeline.run import explain as run

    if name is not None:
        section = run.explain(name)
        print_json(asdict(section)) if as_json else typer.echo(f"{section.name}\n\n{section.text}")
        return
    known = run.sections()
    if as_json:
        print_json({each.name: each.summary for each in known.values()})
        return
    width = max(map(len, known))
    for group, members in groupby(known.values(), key=lambda each: each.group):
        typer.echo(f"{group}\n" + "\n".join(f"  {each.name:<{width}}  {each.summary}" for each in members) + "\n")
    typer.echo("next: weighbridge explain NAME")
