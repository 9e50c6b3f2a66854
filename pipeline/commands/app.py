"""The commands: parse, call, print. No logic here, and nothing heavy imported before a command runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.errors import STOPPING, InputError, InterruptedRunError, WeighbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.run.build import Outcome
    from pipeline.run.many import Result
    from pipeline.run.plan import Settings

app = typer.Typer(
    name="weighbridge",
    help="Turn a PyTorch weights file into a release that is proven to compute what the network computes.",
    epilog="Start with: weighbridge inspect my_model.pth   ·   weighbridge check CONFIG   ·   weighbridge export CONFIG",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes twice as long to import as everything else --help needs
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

Out = Annotated[Path, typer.Option("--out", help="Where releases are written.")]
Trust = Annotated[list[str] | None, typer.Option("--trust", metavar="PREFIX", help="A package whose networks may run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")]
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", min=1, help="Refuse a weights file, or tensors in it, larger than this.")
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Report progress on stderr as JSON, a line an event.")]
Release = Annotated[Path, typer.Argument(help="A release, or the folder that holds its versions.")]
ARTIFACTS = Path("artifacts")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - how typer calls it
    if wanted:
        from pipeline import __version__

        typer.echo(f"weighbridge {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    del debug, version  # `main` reads the one, `_show_version` the other


@app.command()
def export(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="One or more configs.")],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    max_bytes: MaxBytes = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build again even if nothing changed.")] = False,
    benchmark: Annotated[bool, typer.Option(help="Time the backends; without it a release states no latency.")] = True,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this private key.")] = None,
    check_reproducible: Annotated[
        bool, typer.Option("--check-reproducible", help="Build twice, and fail unless both give the same bytes.")
    ] = False,
    reuse_timings: Annotated[
        bool, typer.Option("--reuse-timings", help="Do not time files again that were timed here before.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many configs at once, as far as memory allows.")] = 1,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Export, prove and time a network, and write a release of what was proven.

    What is finished is kept: after an interruption or a change of the config, only the rest is made.
    """
    settings = replace(_settings(out, trust, set_), max_bytes=max_bytes, rebuild=rebuild, benchmark=benchmark)
    settings = replace(settings, sign=sign, reuse_timings=reuse_timings)
    work = partial(_export_all, settings=settings, log_json=log_json, twice=check_reproducible)
    if jobs == 1:
        outcomes = [each for config in configs for each in work([config], jobs=1, as_json=as_json)]
    else:
        outcomes = work(configs, jobs=jobs, as_json=as_json)
    if as_json:
        _print_json({"runs": outcomes})
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
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Validate a config with its weights and architecture, and print the plan. Exports nothing."""
    from pipeline.report.console import progress
    from pipeline.run import actions

    settings = replace(_settings(out, trust, set_), max_bytes=max_bytes)
    outcomes = []
    for config in configs:
        with progress(config.stem) as show:
            checked = partial(actions.check, config, replace(settings, report=show))
            outcomes.append(_attempt(checked, as_json))
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
    file: Annotated[
        str, typer.Argument(help="Any weights or model file; FILE#KEY for one of several state dicts in it.")
    ],
    values: Annotated[
        bool, typer.Option("--values", help="Also read the weights: NaN, infinite and constant tensors.")
    ] = False,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Say what a file is, what it holds and how to run it. Runs none of its code."""
    from dataclasses import asdict

    from pipeline.report.inspection import print_description, with_values
    from pipeline.weights.files import split_key
    from pipeline.weights.inspect import description_of

    path, key = split_key(file)
    description = description_of(Path(path), key=key, max_bytes=max_bytes)
    if values:
        description = with_values(description, Path(path), key, max_bytes)
    if as_json:
        _print_json(asdict(description))
    else:
        print_description(description)


@app.command()
def init(
    file: Annotated[
        str,
        typer.Argument(
            help="A state dict: .pth, .pt, .safetensors, or the index of a sharded one; FILE#KEY for one of several in it."
        ),
    ],
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", metavar="MODULE:CLASS", help="The network. Without it: those of ours that fit."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="The config; default: FILE's name with .yaml")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=DTYPE[SIZES]", help="An input, as in x=float32[batch,10]; may be repeated."
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output-name", help="An output's name, in forward's order; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
    trust: Trust = None,
    set_: Set = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Write a config for a weights file, with what its shapes tell about the network."""
    from pipeline.run import init as rooms
    from pipeline.weights.files import split_key

    name, key = split_key(file)
    if architecture is None:
        found = rooms.match(Path(name), key=key, max_bytes=max_bytes)
        _print_json({"architectures": found}) if as_json else _print_matches(file, found)
        _exit_with(0 if found else InputError.exit_code)
        return
    request = rooms.Request(
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
    draft = rooms.init(request, output, ask, force=force)
    if as_json:
        _print_json({"config": str(draft.path), "unsure": list(draft.unsure), "text": draft.text})
        return
    typer.echo(draft.text, nl=False)
    doubts = f" (look at the lines marked CHECK: {', '.join(draft.unsure)})" if draft.unsure else ""
    typer.echo(f"wrote {draft.path}{doubts}\nnext: weighbridge check {draft.path}", err=True)


@app.command()
def record(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Takes the names of its inputs.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Print the line that records a network's outputs where it was trained, for `reference` in the config."""
    from pipeline.run import actions

    lines = actions.recording_lines(config, tuple(set_ or ()))
    if as_json:
        _print_json(lines)
        return
    typer.echo(
        "In the code that has the trained network, with inputs that it knows (torch and numpy are all it needs):\n"
    )
    typer.echo("\n".join(f"    {line}" for line in lines["python"]))
    typer.echo(f"\nThen, in the config:\n\n    {lines['config']}\n")
    typer.echo(f"next: weighbridge check {config or 'CONFIG'}")


@app.command()
def parity(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The network to compare with.")],
    candidate: Annotated[
        Path | None,
        typer.Option("--candidate", metavar="FILE", help="An ONNX or TorchScript file; default: our exports."),
    ] = None,
    trust_candidate: Annotated[
        bool, typer.Option("--trust-candidate", help="Load a TorchScript candidate, which runs its author's code.")
    ] = False,
    custom_ops: Annotated[
        Path | None,
        typer.Option("--custom-ops", metavar="LIBRARY", help="Operators of an ONNX candidate; its code is run."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Shrink a failing case and name the node or module where the error begins."),
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the results as JUnit XML.")
    ] = None,
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Compare exports, or a file that somebody else made, with the network in float64."""
    from pipeline.report.console import progress
    from pipeline.report.findings import print_parity
    from pipeline.report.junit import render
    from pipeline.run import actions

    request = actions.ParityRequest(candidate, custom_ops, trust_candidate=trust_candidate, explain=explain)
    with progress(config.stem, as_lines=log_json) as show:
        document = actions.parity(config, replace(_settings(out, trust, set_), report=show), request)
    if junit:
        junit.write_bytes(render(document["name"], document))
    if as_json:
        _print_json(document)
    else:
        print_parity(document)
        if not document["passed"] and not explain:
            typer.echo("next: run it again with --explain, which names the node where the error begins")
    _exit_with(0 if document["passed"] else 1)


@app.command()
def verify(
    release: Release,
    backend: Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; may be repeated.")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="PUBLIC", help="It must be signed by this key.")] = None,
    at_least: Annotated[
        str | None, typer.Option("--at-least", metavar="VERSION", help="Refuse an older version than this.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="CONFIG", help="It must be what this config describes.")
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Check a release: every digest, its signature, then its golden cases on the backends found here."""
    from dataclasses import asdict

    from pipeline.release.verify import Origin
    from pipeline.run import actions

    verdict = actions.verify(release, backend, Origin(key, at_least), against, _settings(ARTIFACTS, trust, None))
    if as_json:
        _print_json({"passed": verdict.passed, **asdict(verdict)})
    else:
        for problem in verdict.problems:
            typer.echo(problem, err=True)
        ran = ", ".join(verdict.backends) or "no backend"
        typer.echo(
            f"{verdict.name} {verdict.version}: "
            + (
                f"ok: every digest, {'the signature, ' if key else ''}{verdict.cases} golden cases on {ran}"
                if verdict.passed
                else f"FAILED: {len(verdict.problems)} problem(s)"
            )
        )
        if verdict.passed:
            typer.echo(f"next: weighbridge predict {release} --input FILE")
    _exit_with(0 if verdict.passed else 1)


@app.command()
def predict(
    release: Release,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", metavar="[NAME=]FILE", help="Inputs: .npy .npz .safetensors .json, or a folder of them."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="A file, or a folder if the input is one; default: JSON on stdout.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Which backend; default: the fastest proven one.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda, where no backend is named.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Run a release on inputs from files; outputs are JSON on stdout, or a file.

    A folder is run file by file: outputs are a JSON line for each, or a .npz for each in the output folder.
    """
    from pipeline.release.load import load_release
    from pipeline.release.predict import predict_file, predict_folder

    model = load_release(release, backend=backend, device=device)
    if len(inputs) == 1 and Path(inputs[0]).is_dir():
        with _counter() as count:
            done = predict_folder(model, Path(inputs[0]), output, count)
        wrote = f"{done} files"
    else:
        wrote = ", ".join(predict_file(model, inputs, output))
    if output and as_json:
        _print_json({"output": str(output), "wrote": wrote, "backend": model.backend})
    elif output:
        typer.echo(f"wrote {wrote} to {output} ({model.backend})", err=True)


@app.command()
def benchmark(
    target: Annotated[Path, typer.Argument(metavar="CONFIG|RELEASE", help="A config, or a release without its code.")],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Budget of the run; default: benchmark.seconds.")
    ] = None,
    report_: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write the report there too: report.html, report.md, *.json."),
    ] = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Time the backends of a config or of a release. Writes no release."""
    from pipeline.report.console import print_figures, print_run, progress
    from pipeline.run import actions

    chosen = [*(set_ or ()), *([f"benchmark.seconds={seconds}"] if seconds else ())]
    if report_:
        actions.make_folder(report_)
    with progress(target.stem, as_lines=log_json) as show:
        documents = actions.benchmark(target, replace(_settings(out, trust, chosen), report=show))
    page = actions.write_report(target.stem, documents, report_) if report_ else None
    if as_json:
        _print_json(documents["benchmark"])
        return
    print_run(target.stem, documents["parity"], documents["benchmark"])
    print_figures(documents["benchmark"])
    typer.echo(f"\n{page}" if page else "")
    if actions.is_undecided(documents["benchmark"]):
        twice_s = 2 * documents["benchmark"]["budget_s"]
        typer.echo(f"next: something is undecided; weighbridge benchmark {target} --seconds {twice_s:g} can tell more")
    elif target.suffix.lower() in actions.CONFIGS:
        typer.echo(f"next: weighbridge export {target}")
    else:
        typer.echo(f"next: weighbridge compare {target} ANOTHER_RELEASE")


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The older release.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The newer one.")],
    margin: Annotated[
        float, typer.Option("--margin", min=0.001, help="Relative change that counts as a regression.")
    ] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on what cannot be decided, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare although the machines differ.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a release against an older one: latency, memory, size, parity. Exit 1 on a proven regression."""
    from pipeline.report.console import print_comparison
    from pipeline.run import actions

    found = actions.compare(base, candidate, margin=margin, force=force)
    is_failed = bool(found.regressions or (strict and found.undecided))
    if as_json:
        _print_json({"passed": not is_failed, **found.to_json()})
    else:
        print_comparison(found)
    _exit_with(1 if is_failed else 0)


@app.command()
def report(
    release: Release,
    open_: Annotated[bool, typer.Option("--open", help="Show the HTML report in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Write a release's report again, HTML and Markdown, and print its table, or everything as JSON."""
    from pipeline.release.bundle import find
    from pipeline.report.console import print_figures, print_run
    from pipeline.report.document import as_stated, read
    from pipeline.run import actions

    found = find(release)
    documents = read(found)
    page = actions.report(found)
    if as_json:
        _print_json(documents)
    else:
        with as_stated(found):
            print_run(found.parent.name, documents["parity"], documents["benchmark"])
            print_figures(documents["benchmark"])
        typer.echo(f"\n{page}")
    if open_:
        typer.launch(str(page))


@app.command()
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
        _print_json({"backends": found})
        return
    width = max(len(str(each["name"])) for each in found)
    for each in found:
        reason = f"no: {each['unavailable']}; install {each['install']}" if each["unavailable"] else "yes"
        typer.echo(f"{each['name']:<{width}}  {reason}\n{'':<{width}}  {each['summary']}")


@app.command()
def cache(
    out: Out = ARTIFACTS,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was used longest ago.")] = False,
    keep_bytes: Annotated[
        int, typer.Option("--keep-bytes", min=0, help="How much --prune leaves; default: nothing.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """List what is kept of finished stages, and how large it is; remove it with --prune."""
    from dataclasses import asdict

    from pipeline.report.console import print_cache
    from pipeline.run.plan import results

    kept = results(_settings(out, None, None))
    removed = kept.prune(keep_bytes) if prune else ()
    entries = kept.entries()
    if as_json:
        _print_json(
            {"path": str(kept.root), "entries": list(map(asdict, entries)), "removed": list(map(asdict, removed))}
        )
    else:
        print_cache(kept.root, entries, removed)


@app.command()
def keygen(
    name: Annotated[Path, typer.Argument(help="Writes NAME.pem, to keep secret, and NAME.pub.pem, to hand out.")],
    as_json: Json = False,
) -> None:
    """Make a pair of keys: one to sign releases with, one to verify them with."""
    from pipeline.release.signing import generate

    private, public = generate(name)
    if as_json:
        _print_json({"private": str(private), "public": str(public)})
    else:
        typer.echo(f"{private}  keep it secret\n{public}  hand it out")
        typer.echo(f"next: weighbridge export CONFIG --sign {private}, and weighbridge verify RELEASE --key {public}")


@app.command()
def package(
    release: Release,
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help="triton, mlflow, huggingface, oci or zip.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where; default: NAME-VERSION-KIND here.")] = None,
    as_json: Json = False,
) -> None:
    """Lay a release out for a server or a registry: Triton, MLflow, Hugging Face, OCI, or a zip file."""
    from pipeline.release.packages import package as lay_out

    packaged = lay_out(release, kind, out)
    if as_json:
        _print_json({"kind": kind, "path": str(packaged.path), "next": packaged.next_step})
    else:
        typer.echo(f"{packaged.path}\nnext: {packaged.next_step}")


@app.command()
def schema(
    manifest: Annotated[bool, typer.Option("--manifest", help="Of a release's manifest.json instead.")] = False,
) -> None:
    """Print the JSON Schema of a config, for editors, or of a release's manifest."""
    if manifest:
        from pipeline.release.manifest import schema as make_manifest

        _print_json(make_manifest())
        return
    from pipeline.config import schema as make
    from pipeline.run.plan import vocabulary

    _print_json(make(vocabulary()))


def main() -> NoReturn:
    """Run the command line: one message and the documented exit code for every expected error."""
    _listen()
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)  # what `typer.Exit` carries
    except WeighbridgeError as error:
        if debug:
            raise
        _complain(error)
        sys.exit(error.exit_code)
    except InterruptedRunError as stopped:
        typer.echo("interrupted; what was finished is kept: run the same command again to go on from there", err=True)
        sys.exit(stopped.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort: a message instead of a traceback
        sys.exit(_usage(error) if hasattr(error, "format_message") else _defect(error, debug=debug))
    sys.exit(code or 0)


def _listen() -> None:
    """Stop cleanly on the first Ctrl-C or SIGTERM: end the workers, let directories be cleaned up. Stop now on the second."""

    def stop(number: int, _frame: object) -> NoReturn:
        signal.signal(number, lambda *_: os._exit(128 + number))
        STOPPING.signal_number = number
        if worker := sys.modules.get("pipeline.worker.process"):
            worker.stop_all()
        raise InterruptedRunError

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell that runs us in the background ignores SIGINT
            signal.signal(number, stop)


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


def _export_all(
    configs: list[Path], *, settings: Settings, jobs: int, log_json: bool, twice: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Export configs, print what came of each, and return that as JSON values."""
    from pipeline.report.console import board
    from pipeline.run import many

    with board(len(configs), as_lines=log_json) as begin:
        results = many.export(configs, settings, jobs, begin)
    return [_shown(each, settings, log_json=log_json, twice=twice, as_json=as_json) for each in results]


def _shown(result: Result, settings: Settings, *, log_json: bool, twice: bool, as_json: bool) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        if result.error:
            raise result.error
        assert result.outcome is not None  # noqa: S101 - there is one, or an error
        return _print_outcome(result.outcome, as_json=as_json) | (
            _reproduced(result, settings, log_json=log_json, as_json=as_json) if twice else {}
        )

    return {"config": str(result.config), **_attempt(work, as_json)}


def _print_outcome(outcome: Outcome, *, as_json: bool) -> dict[str, Any]:
    """Print what came of a run, with its table unless that was shown before; return it as JSON values."""
    from pipeline.report.document import read

    found = {"release": str(outcome.release), "up_to_date": outcome.up_to_date, "why": outcome.why}
    if as_json:
        return found | read(outcome.release)
    if outcome.up_to_date:
        typer.echo(f"up to date: {outcome.release}")
    else:
        from pipeline.report.console import print_run

        documents = read(outcome.release)
        print_run(outcome.release.parent.name, documents["parity"], documents["benchmark"])
        typer.echo(outcome.release)
    return found


def _reproduced(result: Result, settings: Settings, *, log_json: bool, as_json: bool) -> dict[str, Any]:
    from pipeline.report.console import progress
    from pipeline.run import actions

    assert result.outcome is not None  # noqa: S101 - it was just printed
    with progress(f"{result.config.stem}, once more", as_lines=log_json) as show:
        same = actions.reproduce(result.config, replace(settings, report=show), result.outcome.release)
    if not as_json:
        typer.echo(f"reproducible: a second build, elsewhere, gave the same bytes for all {len(same)} files")
    return {"reproducible": list(same)}


@contextmanager
def _counter() -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback that shows on stderr how many of how many files are done."""
    from pipeline.report.console import progress
    from pipeline.worker.event import Event

    with progress("predict") as show:
        yield lambda done, total, name: show(Event("files", name, "working", f"{done} of {total}", done / total))


def _print_matches(file: str, found: dict[str, Any]) -> None:
    if not found:
        typer.echo(f"none of the networks that come with weighbridge takes {Path(file).name}", err=True)
        typer.echo(f"next: weighbridge init {file} --architecture MODULE:CLASS --trust MODULE", err=True)
    for target, arguments in found.items():
        typer.echo(f"{target}  {', '.join(f'{name}={value!r}' for name, value in arguments.items())}")
        typer.echo(f"next: weighbridge init {file} --architecture {target}", err=True)


def _print_plan(plan: dict[str, Any]) -> None:
    for key, value in plan.items():
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines):
            typer.echo(f"{key if index == 0 else '':<13} {line}")


def _settings(out: Path, trust: list[str] | None, set_: list[str] | None) -> Settings:
    from pipeline.run.plan import Settings

    return Settings(out=out, trust=tuple(trust or ()), overrides=tuple(set_ or ()))


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def _exit_with(code: int) -> None:
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
