"""weighbridge init."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.shared import Json, MaxBytes, Set, Trust, leave, next_command, print_json
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.run.init import Draft


def init(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A state dict: .pth, .pt, .safetensors, the index of a sharded one, or a Hugging Face folder; FILE#KEY for one of several in it.",
        ),
    ],
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", metavar="MODULE:CLASS", help="The network. Without it: those of ours that fit."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The config; default: FILE's name with .yaml")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=DTYPE[SIZES]", help="An input, as in x=float32[batch,10]; may be repeated."
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output-name", metavar="NAME", help="An output's name, in forward's order; may be repeated."),
    ] = None,
    with_cache: Annotated[
        bool,
        typer.Option(
            "--with-cache",
            help="A Hugging Face folder of a decoder: one step of it, with keys and values of what came before as inputs and outputs.",
        ),
    ] = False,
    save_weights: Annotated[
        Path | None,
        typer.Option(
            "--save-weights",
            metavar="NEW.safetensors",
            help="A Hugging Face folder: also write the tensors that transformers makes of its file, and take those.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
    trust: Trust = None,
    set_: Set = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Write a config for a weights file, with what its shapes tell about the network."""
    from pipeline.run import init as run
    from pipeline.run import pretrained
    from pipeline.weights.files import split_key
    from pipeline.weights.pretrained import is_pretrained

    name, key = split_key(file)
    if is_pretrained(Path(name)):
        request = run.Request(Path(name), architecture or "", tuple(trust or ()), max_bytes=max_bytes)
        wishes = pretrained.Wishes(with_cache, save_weights)
        _tell(pretrained.init(request, output, force=force, wishes=wishes), as_json=as_json, trust=trust)
        return
    if with_cache or save_weights is not None:
        option = "--with-cache" if with_cache else "--save-weights"
        raise InputError(
            f"{option} is for a folder that transformers saved, and {name} is none",
            hint="leave it out; what a network of your own takes is told with --input"
            if with_cache
            else f"for the weights alone: weighbridge inspect {file} --save-weights {save_weights}",
        )
    if architecture is None:
        found = run.match(Path(name), key=key, max_bytes=max_bytes)
        print_json({"architectures": found}) if as_json else _print_matches(file, found)
        leave(0 if found else InputError.exit_code)
        return
    request = run.Request(
        weights=Path(name),
        architecture=architecture,
        trust=tuple(trust or ()),
        overrides=tuple(set_ or ()),
        inputs=tuple(inputs or ()),
        outputs=tuple(outputs or ()),
        max_bytes=max_bytes,
        key=key,
    )
    is_asked = sys.stdin.isatty() and not as_json
    ask = partial(typer.prompt, err=True) if is_asked else None
    draft = run.init(request, output, ask, force=force)
    _tell(draft, as_json=as_json, trust=trust)


def _tell(draft: "Draft", *, as_json: bool, trust: list[str] | None) -> None:
    if as_json:
        print_json({"config": str(draft.path), "unsure": list(draft.unsure), "text": draft.text})
        return
    typer.echo(draft.text, nl=False)
    doubts = f" (look at the lines marked CHECK: {', '.join(draft.unsure)})" if draft.unsure else ""
    typer.echo(f"wrote {draft.path}{doubts}\nnext: {next_command('check', draft.path, trust=trust)}", err=True)


def _print_matches(file: str, found: dict[str, Any]) -> None:
    if not found:
        typer.echo(f"none of the networks that come with weighbridge takes {Path(file).name}", err=True)
        yours = next_command("init", file, "--architecture", "MODULE:CLASS", trust=["MODULE"])
        typer.echo(f"next: {yours}  # MODULE:CLASS: your own network", err=True)
    for target, arguments in found.items():
        typer.echo(f"{target}  {', '.join(f'{name}={value!r}' for name, value in arguments.items())}")
        typer.echo(f"next: {next_command('init', file, '--architecture', target)}", err=True)
