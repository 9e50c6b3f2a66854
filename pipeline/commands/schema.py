"""weighbridge schema."""

from typing import Annotated

import typer

from pipeline.commands.shared import print_json


def schema(
    manifest: Annotated[bool, typer.Option("--manifest", help="Of a release's manifest.json instead.")] = False,
) -> None:
    """Print the JSON Schema of a config, for editors, or of a release's manifest."""
    if manifest:
        from pipeline.release.manifest import schema as make_manifest

        print_json(make_manifest())
        return
    from pipeline.config import schema as make
    from pipeline.run.plan import vocabulary

    print_json(make(vocabulary()))
