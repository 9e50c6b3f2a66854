"""weighbridge compare."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, leave, point_to, print_json


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The older release.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The newer one.")],
    margin: Annotated[
        float, typer.Option("--margin", metavar="SHARE", min=0.001, help="Relative change that counts as a regression.")
    ] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on what cannot be decided, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare although the machines differ.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a release against an older one: latency, memory, size, parity. Exit 1 on a proven regression."""
    from pipeline.report.console import print_comparison
    from pipeline.run import compare as run

    found = run.compare(base, candidate, margin=margin, force=force)
    is_failed = bool(found.regressions or (strict and found.undecided))
    if as_json:
        print_json({"passed": not is_failed, **found.to_json()})
    else:
        print_comparison(found)
        if is_failed:
            point_to("regression" if found.regressions else "undecided")
    leave(1 if is_failed else 0)
