"""weighbridge report."""

from typing import Annotated

import typer

from pipeline.commands.shared import Json, Release, print_json


def report(
    release: Release,
    open_: Annotated[bool, typer.Option("--open", help="Show the HTML report in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Write a release's report again, HTML and Markdown, and print its table, or everything as JSON."""
    from pipeline.release.bundle import find
    from pipeline.report.console import print_figures, print_run
    from pipeline.report.document import read
    from pipeline.run import report as run

    found = find(release)
    documents = read(found)
    page = run.rewrite(found)
    if as_json:
        print_json(documents.to_json())
    else:
        print_run(found.parent.name, documents)
        print_figures(documents.benchmark)
        typer.echo(f"\n{page}")
    if open_:
        typer.launch(str(page))
