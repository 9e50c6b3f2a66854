"""weighbridge backends."""

import typer

from pipeline.commands.shared import Json, print_json


def backends(
    as_json: Json = False,
) -> None:
    """List what can run here, and for the rest why not and what to install."""
    from pipeline.backends.table import backends as table

    found = [
        {"name": each.name, "summary": each.summary, "unavailable": each.probe(), "install": each.install}
        for each in table().values()
    ]
    if as_json:
        print_json({"backends": found})
        return
    width = max(len(str(each["name"])) for each in found)
    for each in found:
        reason = f"no: {each['unavailable']}; install {each['install']}" if each["unavailable"] else "yes"
        typer.echo(f"{each['name']:<{width}}  {reason}\n{'':<{width}}  {each['summary']}")
