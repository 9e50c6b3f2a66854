"""weighbridge package."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, Release, print_json


def package(
    release: Release,
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help="triton, mlflow, ort, huggingface, oci or zip.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="The folder or file itself; default: NAME-VERSION-KIND here, and NAME-VERSION.zip of a zip.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lay a release out for a server or a registry.

    triton: a folder, NAME-VERSION-triton, a model repository with config.pbtxt for tritonserver.

    mlflow: a folder, NAME-VERSION-mlflow, an MLflow model.

    ort: a folder, NAME-VERSION-ort, a model package that onnxruntime opens from version 1.32 on.

    huggingface: a folder, NAME-VERSION-huggingface, the card and the release, to upload to the Hub.

    oci: a folder, NAME-VERSION-oci, an OCI image layout for any registry of containers.

    zip: a file, NAME-VERSION.zip, of the whole release.
    """
    from pipeline.release.packages import package as lay_out

    packaged = lay_out(release, kind, out)
    if as_json:
        noted = {"notes": list(packaged.notes)} if packaged.notes else {}
        print_json({"kind": kind, "path": str(packaged.path), "next": packaged.next_step, **noted})
    else:
        for note in packaged.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"{packaged.path}\nnext: {packaged.next_step}")
