"""The commands: parse, call, print. No logic here, and nothing heavy imported before a command runs."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.errors import InputError, WeighbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.stages import Settings

app = typer.Typer(
    name="weighbridge",
    help="Turn a PyTorch weights file into a release that is proven to compute what the network computes.",
    epilog="Start with: weighbridge inspect my_model.pth   ·   weighbridge check CONFIG   ·   weighbridge export CONFIG",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option("--out", help="Where releases are written.")]
Trust = Annotated[list[str] | None, typer.Option("--trust", metavar="PREFIX", help="A package whose networks may run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Release = Annotated[Path, typer.Argument(help="A release, or the folder that holds its versions.")]
ARTIFACTS = Path("artifacts")


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: FBT002 - how typer declares a flag
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    del debug  # read in `main`, before any command runs
    if version:
        from pipeline import __version__

        typer.echo(f"weighbridge {__version__}")
        raise typer.Exit


@app.command()
def export(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="One or more configs.")],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build again even if nothing changed.")] = False,  # noqa: FBT002 - how typer declares a flag
    benchmark: Annotated[bool, typer.Option(help="Time the backends; without it a release states no latency.")] = True,  # noqa: FBT002 - how typer declares a flag
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """Export, prove and time a network, and write a release of what was proven."""
    settings = replace(_settings(out, trust, set_), rebuild=rebuild, benchmark=benchmark)
    outcomes = [_attempt(partial(_export_one, config, settings, as_json), as_json) for config in configs]
    if as_json:
        _print_json({"runs": [{"config": str(config), **each} for config, each in zip(configs, outcomes, strict=True)]})
    elif any(each.get("release") for each in outcomes):
        release = next(each["release"] for each in outcomes if each.get("release"))
        typer.echo(f"\nnext: weighbridge verify {release}")
    _exit_with(max(each["exit_code"] for each in outcomes))


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="One or more configs.")],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """Validate a config with its weights and architecture, and print the plan. Exports nothing."""
    from pipeline import stages

    settings = _settings(out, trust, set_)
    outcomes = []
    for config in configs:
        outcomes.append(_attempt(partial(stages.check, config, settings), as_json))
        if not as_json and "plan" in outcomes[-1]:
            _print_plan(outcomes[-1]["plan"])
    if as_json:
        _print_json(
            {"checks": [{"config": str(config), **each} for config, each in zip(configs, outcomes, strict=True)]}
        )
    elif not any(each["exit_code"] for each in outcomes):
        typer.echo(f"\nnext: weighbridge export {' '.join(map(str, configs))}")
    _exit_with(max(each["exit_code"] for each in outcomes))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Any weights or model file.")],
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """Say what a file is, what it holds and how to run it. Runs none of its code."""
    from dataclasses import asdict

    from pipeline.checkpoint.inspect import describe
    from pipeline.report.inspection import print_description

    description = describe(file)
    if as_json:
        _print_json(asdict(description))
    else:
        print_description(description)


@app.command()
def verify(
    release: Release,
    backend: Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; may be repeated.")] = None,
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """Check a release: every digest, then its golden cases on the backends found here."""
    from dataclasses import asdict

    from pipeline import stages

    verdict = stages.verify(release, backend)
    if as_json:
        _print_json({"passed": verdict.passed, **asdict(verdict)})
    else:
        for problem in verdict.problems:
            typer.echo(problem, err=True)
        ran = ", ".join(verdict.backends) or "no backend"
        typer.echo(
            f"{verdict.name} {verdict.version}: "
            + (
                f"ok: every digest, {verdict.cases} golden cases on {ran}"
                if verdict.passed
                else f"FAILED: {len(verdict.problems)} problems"
            )
        )
        if verdict.passed:
            typer.echo(f"next: weighbridge predict {release} --input FILE")
    _exit_with(0 if verdict.passed else 1)


@app.command()
def predict(
    release: Release,
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="[NAME=]FILE", help="Inputs: .npy .npz .safetensors .json")
    ],
    output: Annotated[Path | None, typer.Option("--output", help="Write here instead of JSON on stdout.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Which backend; default: the fastest proven one.")
    ] = None,
) -> None:
    """Run a release on inputs from files; outputs are JSON on stdout, or a file."""
    from pipeline.release.load import load_release
    from pipeline.release.predict import read_inputs, run, write_outputs

    model = load_release(release, backend=backend)
    outputs = run(model, read_inputs(inputs, model.interface.inputs))
    write_outputs(outputs, output)
    if output:
        typer.echo(f"wrote {', '.join(outputs)} to {output} ({model.backend})", err=True)


@app.command()
def report(
    release: Release,
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """Print the report of a release again: the table, or everything as JSON."""
    from pipeline.release.bundle import find
    from pipeline.report.console import print_run
    from pipeline.report.document import read

    found = find(release)
    documents = read(found)
    if as_json:
        _print_json(documents)
    else:
        print_run(found.parent.name, documents["parity"], documents["benchmark"])
        typer.echo(f"\n{found / 'report' / 'report.md'}")


@app.command()
def backends(
    as_json: Json = False,  # noqa: FBT002 - how typer declares a flag
) -> None:
    """List what can run here, and for the rest why not and what to install."""
    from pipeline.backends.table import backends as table

    found = [
        {"name": each.name, "summary": each.summary, "unavailable": each.probe(), "install": each.install}
        for each in table().values()
    ]
    if as_json:
        _print_json({"backends": found})
        return
    width = max(len(str(each["name"])) for each in found)
    for each in found:
        reason = f"no: {each['unavailable']}; install {each['install']}" if each["unavailable"] else "yes"
        typer.echo(f"{each['name']:<{width}}  {reason}\n{'':<{width}}  {each['summary']}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from pipeline.config import schema as make
    from pipeline.stages import vocabulary

    _print_json(make(vocabulary()))


def main() -> NoReturn:
    """Run the command line: one message and the documented exit code for every expected error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=False)
    except WeighbridgeError as error:
        if debug:
            raise
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue", err=True)
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort: a message instead of a traceback
        sys.exit(_usage(error) if hasattr(error, "format_message") else _defect(error, debug=debug))
    sys.exit(0)


def _usage(error: Any) -> int:
    """Print what is wrong with the command line, as click words it; `main` maps it to exit code 2."""
    error.show()
    return InputError.exit_code


def _defect(error: Exception, *, debug: bool) -> int:
    if debug:
        raise error
    typer.echo(f"error: {type(error).__name__}: {error}", err=True)
    typer.echo("This is a defect of weighbridge; run again with --debug for the traceback.", err=True)
    return 4


def _complain(error: WeighbridgeError) -> None:
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"fix:   {error.hint}", err=True)


def _attempt(work: Callable[[], dict[str, Any]], as_json: bool) -> dict[str, Any]:  # noqa: FBT001 - private
    """Do one config's work; turn an expected error into a message and its exit code, so that the others go on."""
    try:
        return {"exit_code": 0, **work()}
    except WeighbridgeError as error:
        if "--debug" in sys.argv:
            raise
        if not as_json:
            _complain(error)
        return {"exit_code": error.exit_code, "error": {"message": error.message, "hint": error.hint}}


def _export_one(config: Path, settings: Settings, as_json: bool) -> dict[str, Any]:  # noqa: FBT001 - private
    from pipeline import stages
    from pipeline.report.console import print_run, progress
    from pipeline.report.document import read

    with progress(config.stem) as show:
        outcome = stages.export(config, replace(settings, report=show))
    documents = read(outcome.release)
    if not as_json:
        print_run(outcome.release.parent.name, documents["parity"], documents["benchmark"])
        typer.echo(f"{'up to date: ' if outcome.up_to_date else ''}{outcome.release}")
    return {"release": str(outcome.release), "up_to_date": outcome.up_to_date, "why": outcome.why, **documents}


def _print_plan(plan: dict[str, Any]) -> None:
    for key, value in plan.items():
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines):
            typer.echo(f"{key if index == 0 else '':<13} {line}")


def _settings(out: Path, trust: list[str] | None, set_: list[str] | None) -> Settings:
    from pipeline.stages import Settings

    return Settings(out=out, trust=tuple(trust or ()), overrides=tuple(set_ or ()))


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def _exit_with(code: int) -> None:
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
