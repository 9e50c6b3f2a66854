"""A job that a worker did not survive, written down so that it can be run again by itself."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import WeighbridgeError
from pipeline.storage.store import atomic_directory
from pipeline.worker import wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CALLS = "calls.message"
SCRIPT = "rerun.py"
_OUTPUT = "output"
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

from pipeline.worker import crash

sys.exit(crash.rerun(HERE, in_this_process="--here" in sys.argv))
'''


@dataclass(frozen=True, slots=True)
class Call:
    """A job that was asked for, and how long it might take."""

    job: str
    arguments: Mapping[str, Any]
    timeout_s: float


def write(folder: Path, said: str, setup: Mapping[str, Any], calls: Sequence[Call]) -> Path:
    """Write `folder/<worker>/rerun.py`, which makes `calls` again in a worker of the same setup; return it.

    An argument called `file` is copied, with what lies beside it under its name, because the cache may drop it. One called
    `folder` becomes a new one. The weights stay where they are.
    """
    final = folder / re.sub(r"[^A-Za-z0-9._-]+", "-", setup["label"])
    with atomic_directory(final, replace=True) as temporary:
        (temporary / _OUTPUT).mkdir()
        document = {
            "setup": dict(setup),
            "calls": [
                {"job": each.job, "timeout_s": each.timeout_s, "arguments": _kept(dict(each.arguments), temporary)}
                for each in calls
            ],
        }
        with (temporary / CALLS).open("wb") as file:
            wire.dump(file, document)
        quoted = said.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        path = [str(Path(each).resolve()) for each in sys.path if each]
        text = _TEMPLATE.format(said=quoted, directory=str(Path.cwd()), path=path)
        (temporary / SCRIPT).write_text(text, encoding="utf-8", errors="replace")
    return final / SCRIPT


def rerun(folder: Path, *, in_this_process: bool) -> int:
    """Make the calls that `write` left in a folder again; return the exit code."""
    from pipeline.worker.process import Terms, Worker

    with (folder / CALLS).open("rb") as file:
        document = wire.load(file)
    setup = document["setup"]
    calls = [each | {"arguments": _found(each["arguments"], folder)} for each in document["calls"]]
    if in_this_process:
        from pipeline.worker.jobs import Jobs

        jobs = Jobs()
        for each in calls:
            jobs.run(each["job"], each["arguments"])
        return 0
    terms = Terms(setup.pop("memory_bytes"))
    try:
        with Worker(**setup, terms=terms) as worker:
            for each in calls:
                worker.call(each["job"], timeout_s=each["timeout_s"], **each["arguments"])
    except WeighbridgeError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    print("it did not fail this time")
    return 0


def _kept(value: Any, folder: Path) -> Any:
    """Return arguments whose files are copied into `folder`, named relative to it."""
    if not isinstance(value, dict):
        return value
    return {name: _kept_one(name, each, folder) for name, each in value.items()}


def _kept_one(name: str, value: Any, folder: Path) -> Any:
    if name == "folder":
        return _OUTPUT
    if name != "file" or not value or not Path(value).is_file():
        return _kept(value, folder)
    for each in Path(value).parent.glob(f"{Path(value).name}*"):
        shutil.copyfile(each, folder / each.name)
    return Path(value).name


def _found(value: Any, folder: Path) -> Any:
    """Return kept arguments with the paths that their files have now."""
    if not isinstance(value, dict):
        return value
    return {
        name: os.fspath(folder / each) if name in {"file", "folder"} and each else _found(each, folder)
        for name, each in value.items()
    }
