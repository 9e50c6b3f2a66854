"""weighbridge schema."""

from typing import Annotated

import typer

from pipeline.commands.shared import print_json
from pipeline.errors import InputError


def schema(
    of: Annotated[
        str,
        typer.Option(
            "--of", metavar="DOCUMENT", help="config, manifest, league, or a report's parity, benchmark or recommended."
        ),
    ] = "config",
    manifest: Annotated[bool, typer.Option("--manifest", help="The same as --of manifest.")] = False,
) -> None:
    """Print the JSON Schema of a config, for editors, or of a release's manifest.json, parity.json, benchmark.json or recommended.json."""
    from pipeline.run.schemas import SCHEMAS

    name = "manifest" if manifest else of
    if name not in SCHEMAS:
        raise InputError(f"there is no schema of {name!r}", hint=f"choose from {', '.join(SCHEMAS)}")
    print_json(SCHEMAS[name]())
