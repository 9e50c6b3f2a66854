"""A job that a worker did not survive, written down so that it can be run again by itself."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.store import atomic_directory
from pipeline.worker import job, wire
from pipeline.worker.job import Model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

CALLS = "calls.message"
SCRIPT = "rerun.py"
_OUTPUT = "output"
_STAYING = "network"
"""A field whose files stay where they are: the weights, and what lies beside the config."""
_TEMPLATE = '''\
"""Runs a job that ended its worker once more, by itself:

    python rerun.py          in a worker, with the limits it had; exits with 4 if it fails again
    python rerun.py --here   in this process, to look at with a debugger

What it said:
{said}
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.chdir({directory!r})
sys.path[:0] = {path!r}

from pipeline.worker import rerun

sys.exit(rerun.rerun(HERE, in_this_process="--here" in sys.argv))
'''


class Start(Model):
    """How a worker was started: see `pipeline.worker.runner.Runner.start`."""

    label: str
    threads: int
    environment: dict[str, str]
    memory_bytes: int | None = None
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    fresh: bool = False
    above: tuple[str, ...] | None = None


class Call(Model):
    """A message that asked for a job, and how long that might take."""

    message: dict[str, object]
    timeout_s: float

    @classmethod
    def of(cls, request: job.Request[object], timeout_s: float) -> Self:
        """Return the call that a request makes."""
        return cls(message=job.message_of(request), timeout_s=timeout_s)


class Crash(Model):
    """What a folder holds: how the worker was started, and the calls that it takes to end it again."""

    start: Start
    calls: tuple[Call, ...]


def write(folder: Path, said: str, start: Start, calls: Sequence[Call]) -> Path:
    """Write `folder/<worker>/rerun.py`, which makes `calls` again in a worker that is started alike; return it.

    A file in a field called `file`, or in a list called `files`, is copied, with what lies beside it under its name, because the cache may drop it. A
    folder in one called `folder` becomes a new one. The network's files stay where they are.
    """
    final = folder / re.sub(r"[^A-Za-z0-9._-]+", "-", start.label)
    with atomic_directory(final, replace=True) as temporary:
        (temporary / _OUTPUT).mkdir()
        crash = Crash(start=start, calls=tuple(calls)).model_dump()
        with (temporary / CALLS).open("wb") as file:
            wire.dump(file, _copied(crash, temporary))
        quoted = said.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        path = [str(Path(each).resolve()) for each in sys.path if each]
        text = _TEMPLATE.format(said=quoted, directory=str(Path.cwd()), path=path)
        (temporary / SCRIPT).write_text(text, encoding="utf-8", errors="replace")
    return final / SCRIPT


def read(folder: Path) -> Crash:
    """Return what `write` left in a folder, with the paths that its files have now."""
    with (folder / CALLS).open("rb") as file:
        return Crash.model_validate(_found(wire.load(file), folder))


def _copied(value: object, folder: Path) -> object:
    """Return a message whose files are copied into `folder`, named relative to it."""
    if isinstance(value, dict):
        return {name: each if name == _STAYING else _copied_field(name, each, folder) for name, each in value.items()}
    return [_copied(each, folder) for each in value] if isinstance(value, list | tuple) else value


def _copied_field(name: str, value: object, folder: Path) -> object:
    if name == "files" and isinstance(value, list | tuple):
        return [_copied_field("file", each, folder) for each in value]
    if name == "folder" and value:
        return _OUTPUT
    if name != "file" or not isinstance(value, str | Path) or not Path(value).is_file():
        return _copied(value, folder)
    own = Path(str(len(list(folder.iterdir()))), Path(value).name)  # two files may have one name
    (folder / own).parent.mkdir()
    for each in Path(value).parent.glob(f"{Path(value).name}*"):
        shutil.copyfile(each, folder / own.parent / each.name)
    return own


def _found(value: object, folder: Path) -> object:
    """Return a message that was written with the paths that its files have now."""
    if isinstance(value, dict):
        return {name: each if name == _STAYING else _found_field(name, each, folder) for name, each in value.items()}
    return [_found(each, folder) for each in value] if isinstance(value, list) else value


def _found_field(name: str, value: object, folder: Path) -> object:
    if name == "files" and isinstance(value, list):
        return [_found_field("file", each, folder) for each in value]
    return folder / value if name in {"file", "folder"} and isinstance(value, str) else _found(value, folder)
