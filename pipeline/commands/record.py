"""weighbridge record."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, Set, next_command, print_json


def record(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Takes the names of its inputs.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Print the line that records a network's outputs where it was trained, for `reference` in the config."""
    from pipeline.run import record as run

    lines = run.lines(config, tuple(set_ or ()))
    if as_json:
        print_json(lines)
        return
    typer.echo(
        "In the code that has the trained network, with inputs that it knows (torch and numpy are all it needs):\n"
    )
    typer.echo("\n".join(f"    {line}" for line in lines["python"]))
    typer.echo(f"\nThen, in the config:\n\n    {lines['config']}\n")
    check = next_command("check", config or "CONFIG", overrides=set_)
    typer.echo(f"next: {check}" + ("" if config else "  # CONFIG: the config of that network"))
