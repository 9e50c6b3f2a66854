"""weighbridge inspect."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, MaxBytes, print_json


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Any weights or model file, or a Hugging Face folder; FILE#KEY for one of several state dicts in it.",
        ),
    ],
    values: Annotated[
        bool, typer.Option("--values", help="Also read the weights: NaN, infinite and constant tensors.")
    ] = False,
    save_weights: Annotated[
        Path | None,
        typer.Option(
            "--save-weights", metavar="NEW.safetensors", help="Also write the state dict alone to a new file."
        ),
    ] = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Say what a file is, what it holds and how to run it. Runs none of its code."""
    from dataclasses import asdict, replace

    from pipeline.report.inspection import print_description, with_values
    from pipeline.weights.files import split_key
    from pipeline.weights.inspect import description_of
    from pipeline.weights.pretrained import describe, is_pretrained, read

    name, key = split_key(file)
    path = Path(name)
    if is_pretrained(path):
        found = read(path)
        description, path = describe(found, max_bytes=max_bytes), found.weights
    else:
        description = description_of(path, key=key, max_bytes=max_bytes)
    if values:
        description = with_values(description, path, key, max_bytes)
    if save_weights is not None:
        from pipeline.run import inspect as run

        run.save_weights(path, save_weights, key=key, max_bytes=max_bytes)
        description = replace(description, saved=str(save_weights))
    if as_json:
        print_json(asdict(description))
    else:
        print_description(description)
