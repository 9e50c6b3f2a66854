"""How every command ends: one JSON document, one error message, one exit code."""

import json
import sys
from collections.abc import Callable
from typing import Any

import typer

from pipeline.errors import WeighbridgeError


def print_json(document: Any) -> None:
    """Print the one document of `--json`; raises ValueError for a number that JSON has no word for."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def leave(code: int) -> None:
    """End the command with an exit code; 0 lets it run to its end."""
    if code:
        raise SystemExit(code)


def complain(error: WeighbridgeError) -> None:
    """Print what is wrong, and what to do about it."""
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"fix:   {error.hint}", err=True)


def attempt(work: Callable[[], dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    """Do one config's work; turn an expected error into a message and its exit code, so that the others go on."""
    try:
        return {"exit_code": 0, **work()}
    except WeighbridgeError as error:
        if "--debug" in sys.argv:
            raise
        if not as_json:
            complain(error)
        return {"exit_code": error.exit_code, "error": {"message": error.message, "hint": error.hint}}
