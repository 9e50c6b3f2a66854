"""weighbridge benchmark."""

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
    next_command,
    point_to,
    print_json,
    settings_of,
    sharing,
)


def benchmark(
    target: Annotated[Path, typer.Argument(metavar="CONFIG|RELEASE", help="A config, or a release without its code.")],
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="SECONDS", min=0.1, help="Budget of the run; default: benchmark.seconds."),
    ] = None,
    report_: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write the report there too: report.html, report.md, *.json."),
    ] = None,
    cache: CacheUrl = None,
    cache_key: CacheKey = None,
    cache_trust: CacheTrust = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Time the backends of a config or of a release. Writes no release."""
    from pipeline.report.console import print_figures, print_run
    from pipeline.report.progress import progress
    from pipeline.run import benchmark as run
    from pipeline.run import report as report_run

    shared = sharing(cache, cache_key, cache_trust)
    chosen = [*(set_ or ()), *([f"benchmark.seconds={seconds}"] if seconds else ())]
    if report_:
        report_run.make_folder(report_)
    with progress(target.stem, as_lines=log_json) as show:
        documents = run.benchmark(target, replace(settings_of(out, trust, chosen, shared=shared), report=show))
    page = report_run.write(target.stem, documents, report_) if report_ else None
    if as_json:
        print_json(documents.benchmark.to_json())
        return
    print_run(target.stem, documents)
    print_figures(documents.benchmark)
    typer.echo(f"\n{page}" if page else "")
    if run.is_undecided(documents.benchmark):
        longer_s = f"{run.deciding_s(documents.benchmark):g}"
        again = next_command("benchmark", target, "--seconds", longer_s, trust=trust, overrides=set_, out=out)
        typer.echo(f"next: {again}  # something is undecided: a longer run can tell more")
        point_to("undecided")
    elif target.suffix.lower() in run.CONFIGS:
        typer.echo(f"next: {next_command('export', target, trust=trust, overrides=set_, out=out)}")
    else:
        typer.echo(f"next: {next_command('predict', target, '--example')}")
