"""weighbridge verify."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import (
    ARTIFACTS,
    Json,
    Release,
    Trust,
    leave,
    next_command,
    point_to,
    print_json,
    settings_of,
)


def verify(
    release: Release,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", metavar="BACKEND", help="Only this backend; may be repeated.")
    ] = None,
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
    from pipeline.run import verify as run

    verdict = run.verify(release, backend, Origin(key, at_least), against, settings_of(ARTIFACTS, trust, None))
    if as_json:
        print_json({"passed": verdict.passed, **asdict(verdict)})
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
        for note in verdict.notes:
            typer.echo(note)
        if verdict.passed:
            typer.echo(f"next: {next_command('predict', release, '--example')}")
        else:
            point_to("verify-failed")
    leave(0 if verdict.passed else 1)
