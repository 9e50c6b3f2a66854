"""The command line as a whole: every command in the order of --help, and what becomes of an error or a signal."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand

from pipeline.commands.backends import backends
from pipeline.commands.benchmark import benchmark
from pipeline.commands.cache import cache
from pipeline.commands.check import check
from pipeline.commands.compare import compare
from pipeline.commands.explain import explain
from pipeline.commands.export import export
from pipeline.commands.init import init
from pipeline.commands.inspect import inspect
from pipeline.commands.keygen import keygen
from pipeline.commands.league import league
from pipeline.commands.merge import merge
from pipeline.commands.package import package
from pipeline.commands.parity import parity
from pipeline.commands.predict import predict
from pipeline.commands.record import record
from pipeline.commands.replay import replay
from pipeline.commands.report import report
from pipeline.commands.schema import schema
from pipeline.commands.shared import complain
from pipeline.commands.tune import tune
from pipeline.commands.verify import verify
from pipeline.errors import STOPPING, InputError, InterruptedRunError, WeighbridgeError

COMMANDS = (
    *(export, check, inspect, init, record, parity, verify, predict, benchmark, tune, compare, replay, report),
    *(merge, league),
    *(backends, cache, explain, keygen, package, schema),
)

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


class _Command(TyperCommand):
    """A command whose help tells its arguments by their names, without Python's types behind them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for each in self.params:
            if isinstance(each, TyperArgument):
                each.display_type_rich = lambda ctx: None  # type: ignore[method-assign]  # noqa: ARG005 - typer's own


for command in COMMANDS:
    app.command(cls=_Command)(command)


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


def main() -> NoReturn:
    """Run the command line: one message and the documented exit code for every expected error."""
    _listen()
    debug = "--debug" in sys.argv
    try:
        code = app(prog_name="weighbridge", standalone_mode=False)  # what `typer.Exit` carries
    except WeighbridgeError as error:
        if debug:
            raise
        complain(error)
        sys.exit(error.exit_code)
    except InterruptedRunError as stopped:
        typer.echo("interrupted; what was finished is kept: run the same command again to go on from there", err=True)
        sys.exit(stopped.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort: a message instead of a traceback
        sys.exit(_usage(error) if hasattr(error, "format_message") else _defect(error, debug=debug))
    sys.exit(code or 0)


def run() -> NoReturn:
    """Be the command: as `main`, and end the process without taking the interpreter apart, which takes as long as a run with nothing to do."""
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, int) and threading.active_count() == 1:
            atexit._run_exitfuncs()  # noqa: SLF001 - what the interpreter calls before it takes itself apart
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(ended.code)
        raise


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
