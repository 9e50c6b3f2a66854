"""weighbridge parity."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import (
    ARTIFACTS,
    CacheKey,
    CacheTrust,
    CacheUrl,
    Json,
    LogJson,
    Out,
    Set,
    Trust,
    leave,
    next_command,
    point_to,
    print_json,
    settings_of,
    sharing,
)


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
    cache: CacheUrl = None,
    cache_key: CacheKey = None,
    cache_trust: CacheTrust = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Compare exports, or a file that somebody else made, with the network in float64."""
    from pipeline.report.console import print_parity
    from pipeline.report.junit import render
    from pipeline.report.progress import progress
    from pipeline.run import parity as run

    shared = sharing(cache, cache_key, cache_trust)
    request = run.Request(candidate, custom_ops, trust_candidate=trust_candidate, explain=explain)
    with progress(config.stem, as_lines=log_json) as show:
        found = run.parity(config, replace(settings_of(out, trust, set_, shared=shared), report=show), request)
    if junit:
        junit.write_bytes(render(found.name, found))
    if as_json:
        print_json(found.to_json())
    else:
        print_parity(found)
        closing = [each.verdict for each in found.accuracies.values() if each.closes]
        if not found.passed and not explain and not closing:
            options = [
                *(("--candidate", candidate) if candidate else ()),
                *(["--trust-candidate"] if trust_candidate else ()),
            ]
            options += ["--custom-ops", custom_ops] if custom_ops else []
            again = next_command("parity", config, *options, "--explain", trust=trust, overrides=set_, out=out)
            typer.echo(f"next: {again}  # names the node where the error begins")
        if not found.passed:
            undecided = all(each == "undecided" for each in closing)
            point_to("accuracy-undecided" if closing and undecided else "accuracy-fail" if closing else "parity-fail")
    leave(0 if found.passed else 1)
