"""What a crash's script does: make the calls again that ended a worker."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pipeline.errors import WeighbridgeError
from pipeline.worker import crash, job
from pipeline.worker.inprocess import InProcessRunner
from pipeline.worker.process import LocalRunner

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.worker.runner import Runner


def rerun(folder: Path, *, in_this_process: bool) -> int:
    """Make the calls that `crash.write` left in a folder again; return the exit code."""
    found = crash.read(folder)
    start = found.start
    runner: Runner = LocalRunner(start.memory_bytes, packages=start.packages)
    if in_this_process:
        runner = InProcessRunner(start.packages)
    try:
        with runner.start(start.label, threads=start.threads, environment=start.environment, fresh=True) as worker:
            for each in found.calls:
                worker.call(job.request_from(each.message, start.packages), timeout_s=each.timeout_s)
    except WeighbridgeError as error:
        if in_this_process:
            raise
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    print("it did not fail this time")
    return 0
