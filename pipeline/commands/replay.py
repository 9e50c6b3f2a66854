"""weighbridge replay."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.shared import ARTIFACTS, Json, LogJson, Out, Trust, complain, leave, print_json


def replay(
    releases: Annotated[
        list[Path], typer.Argument(metavar="RELEASE", help="Releases, or the folders that hold their versions.")
    ],
    with_: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="VERSIONS",
            help="What shall change, as pip takes it: 'torch==2.14.0, onnxruntime==1.32.0'; may be repeated, each tried by itself.",
        ),
    ],
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            metavar="CONFIG",
            help="What one of them was built from: run its network too, and export it again with all its gates; may be repeated.",
        ),
    ] = None,
    trust: Trust = None,
    out: Out = ARTIFACTS,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PUBLIC", help="They must be signed by this key.")
    ] = None,
    count: Annotated[int, typer.Option("--jobs", metavar="COUNT", min=1, help="How many releases at once.")] = 1,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1.0, help="How long one answer of a backend may take.")
    ] = 600.0,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """May I upgrade? Replay the golden cases of releases under other versions of what runs them. Exit 1 if a required backend would break.

    The environment that weighbridge runs in is not touched: what changes is put into a folder of its own, and kept.
    """
    from pipeline.fleet.replay import replay as fleet
    from pipeline.fleet.replay.requirements import candidate
    from pipeline.fleet.replay.told import answer, print_replayed, to_json
    from pipeline.release.verify import Origin
    from pipeline.report.progress import progress

    sys.dont_write_bytecode = True  # not even Python's own copies of what is imported here
    candidates = [candidate(each) for each in with_]
    with progress("replay", as_lines=log_json) as show:
        settings = fleet.Settings(
            out, Origin(key), count, timeout_s, report=show, configs=tuple(config or ()), trust=tuple(trust or ())
        )
        found = fleet.replay(releases, candidates, settings)
    if as_json:
        print_json(to_json(found))
    else:
        for each in found.refused:
            complain(each.error)
        print_replayed(found)
        for line in answer(found):
            typer.echo(line)
    leave(found.exit_code)
