"""weighbridge league."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, leave, point_to, print_json


def league(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders with releases somewhere below them.")],
    every: Annotated[bool, typer.Option("--all", help="Every version, and not only the newest of each name.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table as Markdown.")
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option("--against", metavar="OLD", help="An older table (what --json printed), or a folder of releases."),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", metavar="SHARE", min=0.001, help="Relative change that counts as a regression.")
    ] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on what cannot be decided, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show many releases in one table: verdicts, errors, latencies, sizes, memory; a table for each kind of node.

    It shows what releases state of themselves: weighbridge verify proves one. Exit 1 if, against an older table, something required is proven worse.
    """
    from pipeline.fleet.league.table import collect
    from pipeline.report.standings import headline, sections
    from pipeline.storage.store import atomic_write

    found = collect(folders, every=every)
    held = None
    if old is not None:
        from pipeline.fleet.league.against import against, read

        held = against(found, read(old), margin=margin)
        found = found.model_copy(update={"against": held})
    if html or markdown:
        from pipeline.report import league_page

        for file, write in ((html, league_page.render), (markdown, league_page.text)):
            if file:
                atomic_write(file, write(found).encode())
    is_failed = held is not None and (held.closes or (strict and bool(held.of("undecided"))))
    if as_json:
        print_json({"passed": not is_failed, **found.to_json()})
    else:
        from pipeline.report.console import print_league

        print_league(sections(found))
        typer.echo(headline(found))
        if held is not None and is_failed:
            point_to("regression" if held.closes else "undecided")
    leave(1 if is_failed else 0)
