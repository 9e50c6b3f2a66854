"""What the commands share: options, and how each ends: one JSON document, one error message, one exit code."""

import glob
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import errors
from pipeline.errors import InputError, WeighbridgeError

if TYPE_CHECKING:
    from pipeline.run.plan import Settings
    from pipeline.run.sharing import SharedCache

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where releases are written.")]
Trust = Annotated[list[str] | None, typer.Option("--trust", metavar="PREFIX", help="A package whose networks may run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        "--max-bytes", metavar="BYTES", min=1, help="Refuse a weights file, or tensors in it, larger than this."
    ),
]
CacheUrl = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="URL",
        envvar="WEIGHBRIDGE_CACHE",
        help="Results that machines share: file://, s3://, gs:// or another address of fsspec's.",
    ),
]
CacheKey = Annotated[
    Path | None,
    typer.Option(
        "--cache-key",
        metavar="KEY",
        envvar="WEIGHBRIDGE_CACHE_KEY",
        help="Sign what is added to --cache with this private key, and use what it signed.",
    ),
]
CacheTrust = Annotated[
    list[Path] | None,
    typer.Option("--cache-trust", metavar="PUBLIC", help="Use what the owner of this public key added to --cache."),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Report progress on stderr as JSON, a line an event.")]
Configs = Annotated[list[Path], typer.Argument(metavar="CONFIG", help="One or more configs.")]
Release = Annotated[Path, typer.Argument(metavar="RELEASE", help="A release, or the folder that holds its versions.")]

ARTIFACTS = Path("artifacts")


def settings_of(out: Path, trust: list[str] | None, overrides: list[str] | None, **others: Any) -> "Settings":
    """Return the settings of a run; `others` are fields of `Settings`."""
    from pipeline.run.plan import Settings

    return Settings(out=out, trust=tuple(trust or ()), overrides=tuple(overrides or ()), **others)


def sharing(url: str | None, key: Path | None, trusted: list[Path] | None) -> "SharedCache | None":
    """Return the shared cache that was asked for.

    Raises:
        InputError: keys for a cache without a place; nothing that says whose results count.
        UnavailableError: it cannot be opened.
    """
    from pipeline.run.sharing import SharedCache, opened

    if not url:
        if key or trusted:
            raise InputError(
                "--cache-key and --cache-trust belong to a shared cache, and none is named",
                hint="give --cache URL, or leave them out",
            )
        return None
    found = SharedCache(url, key, tuple(trusted or ()))
    opened(found)
    return found


def expanded(configs: list[Path]) -> list[Path]:
    """Return configs with patterns that no shell expanded (`'configs/*.yaml'`) replaced by what they match, in order.

    Raises InputError for a pattern that matches nothing.
    """
    found: list[Path] = []
    for each in configs:
        if each.exists() or not glob.has_magic(str(each)):
            found.append(each)
            continue
        matches = sorted(map(Path, glob.glob(str(each), recursive=True)))  # noqa: PTH207 - a pattern may be absolute
        if not matches:
            raise errors.InputError(f"no file matches {each}", hint="correct the pattern, which starts here")
        found += matches
    return found


def print_json(document: Any) -> None:
    """Print the one document of `--json`; raises ValueError for a number that JSON has no word for."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def leave(code: int) -> None:
    """End the command with an exit code; 0 lets it run to its end."""
    if code:
        raise SystemExit(code)


def next_command(
    command: str,
    *targets: object,
    trust: list[str] | None = None,
    overrides: list[str] | None = None,
    out: Path = ARTIFACTS,
) -> str:
    """Return the command that goes on, with the options that it needs again: whom to trust, what was overridden, where to."""
    options = [("--trust", each) for each in trust or ()] + [("--set", each) for each in overrides or ()]
    options += [] if out == ARTIFACTS else [("--out", str(out))]
    words = [command, *targets, *(word for option in options for word in option)]
    return errors.command(*words)


def complain(error: WeighbridgeError) -> None:
    """Print what is wrong, what to do about it, and where more is said of errors of its kind."""
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"fix:   {error.hint}", err=True)
    if error.about:
        point_to(error.about)


def point_to(name: str) -> None:
    """Print which command says more of a verdict or an error, on stderr."""
    typer.echo(f"more:  weighbridge explain {name}", err=True)


def attempt(work: Callable[[], dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    """Do one config's work; turn an expected error into a message and its exit code, so that the others go on."""
    try:
        return {"exit_code": 0, **work()}
    except WeighbridgeError as error:
        if "--debug" in sys.argv:
            raise
        if not as_json:
            complain(error)
        return {
            "exit_code": error.exit_code,
            "error": {"message": error.message, "hint": error.hint, "about": error.about},
        }
