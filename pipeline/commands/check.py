"""weighbridge check."""

from dataclasses import replace
from functools import partial
from typing import Any

import typer

from pipeline.commands.shared import (
    ARTIFACTS,
    Configs,
    Json,
    MaxBytes,
    Out,
    Set,
    Trust,
    attempt,
    leave,
    next_command,
    print_json,
    settings_of,
)


def check(
    configs: Configs,
    out: Out = ARTIFACTS,
    trust: Trust = None,
    set_: Set = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Validate a config with its weights and architecture, and print the plan. Exports nothing."""
    from pipeline.report.progress import progress
    from pipeline.run import check as run

    settings = settings_of(out, trust, set_, max_bytes=max_bytes)
    outcomes = []
    for config in configs:
        with progress(config.stem) as show:
            checked = attempt(partial(run.check, config, replace(settings, report=show)), as_json=as_json)
        outcomes.append({"config": str(config), **checked})
        if not as_json and "plan" in checked:
            _print_plan(checked["plan"])
    code = max(each["exit_code"] for each in outcomes)
    if as_json:
        print_json({"checks": outcomes})
    elif not code:
        typer.echo(f"\nnext: {next_command('export', *configs, trust=trust, overrides=set_, out=out)}")
    leave(code)


def _print_plan(plan: dict[str, Any]) -> None:
    for key, value in plan.items():
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines):
            typer.echo(f"{key if index == 0 else '':<13} {line}")
