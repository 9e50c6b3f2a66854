"""weighbridge predict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import Json, Release, print_json
from pipeline.errors import InputError


def predict(
    release: Release,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="[NAME=]FILE", help="Inputs: .npy .npz .safetensors .json, or a folder of them."
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="In place of --input: the inputs of the release's first golden case.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="A file, or a folder if the input is one; default: JSON on stdout."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="BACKEND",
            help="Which backend; default: the recommended one (weighbridge tune), or the fastest proven one.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="PUBLIC", help="It must be signed by this key.")] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu or cuda, where no backend is named.")
    ] = "cpu",
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="COUNT", min=1, help="Only the best classes, by the names that the release has."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a release on inputs from files; outputs are JSON on stdout, or a file.

    A folder is run file by file: outputs are a JSON line for each, or a .npz for each in the output folder.
    """
    from pipeline.release.load import load_release
    from pipeline.release.predict import predict_example, predict_file, predict_folder

    if bool(inputs) == example:
        raise InputError(
            "--input and --example are both given" if example else "there is no input",
            hint="give --input FILE, or --example to see what the release gives on its first golden case",
        )
    model = load_release(release, backend=backend, device=device, key=key)
    for note in model.notes:
        typer.echo(f"note: {note}", err=True)
    if not inputs:
        wrote = ", ".join(predict_example(model, release, output, top))
    elif len(inputs) == 1 and Path(inputs[0]).is_dir():
        with _counter() as count:
            done = predict_folder(model, Path(inputs[0]), output, count, top)
        wrote = f"{done} files"
    else:
        wrote = ", ".join(predict_file(model, inputs, output, top))
    if output and as_json:
        print_json({"output": str(output), "wrote": wrote, "backend": model.backend})
    elif output:
        typer.echo(f"wrote {wrote} to {output} ({model.backend})", err=True)


@contextmanager
def _counter() -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback that shows on stderr how many of how many files are done."""
    from pipeline.report.progress import progress
    from pipeline.worker.event import Event

    with progress("predict") as show:
        yield lambda done, total, name: show(Event("files", name, "working", f"{done} of {total}", done / total))
