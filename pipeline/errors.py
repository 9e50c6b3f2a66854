"""Every error weighbridge raises on purpose, its exit code and its hint.

A message says what is wrong, where, with the numbers; the hint says what to do about it. Anything that is not one of
these is a defect of weighbridge itself and keeps its traceback.
"""

from __future__ import annotations

import difflib
import shlex
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class _Stop(threading.Event):
    """Set once the user has stopped the run, by `signal_number`."""

    signal_number = int(signal.SIGINT)


STOPPING = _Stop()
"""Whoever waits for something raises `InterruptedRunError` once this is set."""


class WeighbridgeError(Exception):
    """Base of all errors meant for the user: one message, one hint, one exit code.

    `about` names what `weighbridge explain` says of errors of this kind; None where the hint says all there is.
    """

    exit_code = 2
    about: str | None = None

    def __init__(self, message: str, *, hint: str | None = None, about: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.about = about or type(self).about


class GateError(WeighbridgeError):
    """A gate closed: parity, a digest, a golden case, a regression."""

    exit_code = 1


class DigestError(GateError):
    """Bytes are not the bytes that were recorded."""

    about = "digest"


class InputError(WeighbridgeError):
    """What the user gave is wrong: usage, a file, an input array."""


class ConfigError(InputError):
    """A config that cannot be read; holds every problem found, each with its place."""

    about = "config"


class WeightsError(InputError):
    """A weights file that is missing, empty, truncated or of another kind."""

    about = "weights-file"


class MisfitError(WeightsError):
    """A state dict that does not fit the architecture it was given with."""

    about = "misfit"


class ArchitectureError(InputError):
    """An architecture that does not exist or cannot be built from its arguments."""

    about = "architecture"


class UnsafeError(WeighbridgeError):
    """Refused: running or opening it could execute code, or exhaust the machine."""

    exit_code = 3
    about = "unsafe"


class UnavailableError(WeighbridgeError):
    """Something required is not here: a backend, a package, a device."""

    exit_code = 4
    about = "unavailable"


class WorkerError(WeighbridgeError):
    """A child process crashed, hung or answered garbage."""

    exit_code = 4
    about = "crashed"


class DefectError(WorkerError):
    """weighbridge itself did something else than it must: nothing that it says of this run may be believed."""

    about = "defect"


class ExportError(WorkerError):
    """An exporter refused or failed on this network."""

    about = "refused"


class InterruptedRunError(BaseException):
    """The user stopped the run. Like KeyboardInterrupt no Exception: nobody may take it for a failure and go on.

    `exit_code` is what a shell expects for the signal.
    """

    def __init__(self) -> None:
        super().__init__("the run was interrupted")
        self.exit_code = 128 + STOPPING.signal_number


def suggestion(given: str, valid: Iterable[str]) -> str:
    """Return " (nearest valid: 'x')", else the short list of what is valid, else nothing."""
    names = sorted(set(valid))
    if close := difflib.get_close_matches(given, names, n=1, cutoff=0.5):
        return f" (nearest valid: {close[0]!r})"
    return f" (valid: {', '.join(map(repr, names))})" if 0 < len(names) <= 10 else ""


def command(*words: object) -> str:
    """Return a command of weighbridge's as it is pasted into a shell."""
    return f"weighbridge {shlex.join(map(str, words))}"


def in_line(names: Sequence[str], most: int = 8) -> str:
    """Return names in a line, of many the first ones and how many more there are."""
    more = f" … and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
