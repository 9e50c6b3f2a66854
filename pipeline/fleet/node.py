"""What belongs to a machine of a fleet: a private folder with the results that its tasks share, and the lock that lets a timing run alone."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import STOPPING, InputError, InterruptedRunError
from pipeline.run.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

FOLDER_VARIABLE = "WEIGHBRIDGE_NODE_DIR"
"""The folder, where the temporary one is too small for it."""
_TIMING = ".timing"
_CHECK_S = 0.2


def folder() -> Path:
    """Return this user's private folder on this machine, made if it is not there.

    Raises:
        InputError: what lies there is somebody else's, or others may write to it.
    """
    stated = os.environ.get(FOLDER_VARIABLE)
    return _private(Path(stated) if stated else _of_user())


def _of_user() -> Path:
    return Path(tempfile.gettempdir()) / f"weighbridge-{os.getuid()}"


def _private(place: Path) -> Path:
    """Return a folder, made if it is not there; raises InputError unless it is the user's own and closed to others: what is kept in it is believed."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(
            f"{place} is no folder that this user alone may write to",
            hint=f"remove it, or name another one in {FOLDER_VARIABLE}",
        )
    return place


class NodeSlots(Slots):
    """The slots of a task: one build with so much memory, beside those of others on this machine; while one times, nobody builds.

    The lock is the machine's, not the node's: several nodes may be on one machine, and their timings would disturb each other.
    """

    @contextmanager
    def take(self, need_bytes: int) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Hold the machine with others while the block runs; yield a function that gives a context to have it alone."""
        del need_bytes  # the scheduler saw to it
        descriptor = os.open(_private(_of_user()) / _TIMING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _hold(descriptor, fcntl.LOCK_SH)
            yield lambda: _alone(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    _hold(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _hold(descriptor: int, how: int) -> None:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return
        if STOPPING.wait(_CHECK_S):
            raise InterruptedRunError
