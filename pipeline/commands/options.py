"""Options that several commands take, and what they mean for a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.run.plan import Settings

Out = Annotated[Path, typer.Option("--out", help="Where releases are written.")]
Trust = Annotated[list[str] | None, typer.Option("--trust", metavar="PREFIX", help="A package whose networks may run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")]
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", min=1, help="Refuse a weights file, or tensors in it, larger than this.")
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Report progress on stderr as JSON, a line an event.")]
Configs = Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="One or more configs.")]
Release = Annotated[Path, typer.Argument(help="A release, or the folder that holds its versions.")]

ARTIFACTS = Path("artifacts")


def settings_of(out: Path, trust: list[str] | None, overrides: list[str] | None, **others: Any) -> "Settings":
    """Return the settings of a run; `others` are fields of `Settings`."""
    from pipeline.run.plan import Settings

    return Settings(out=out, trust=tuple(trust or ()), overrides=tuple(overrides or ()), **others)
