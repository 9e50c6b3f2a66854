"""Exports in a process of its own on a node: `python -m pipeline.fleet.child ALIVE` reads orders and tells what it does, a JSON line each.

It does one after the other, and ends with the process that started it, whatever becomes of that, and its own workers with it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.benchmark.machine import processor
from pipeline.errors import STOPPING, InputError, InterruptedRunError, UnavailableError, WeighbridgeError
from pipeline.fleet.node import NodeSlots
from pipeline.run import keys, up_to_date
from pipeline.run.export import export
from pipeline.run.plan import Settings, plan
from pipeline.run.sharing import SharedCache
from pipeline.storage.store import atomic_write
from pipeline.worker import process
from pipeline.worker.child import die_with_parent
from pipeline.worker.job import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.worker.event import Event

ELSEWHERE = ("backend ", "device of ")
"""Parts of what a release depends on that the machine decides that it is built on."""
_SENDER = ("benchmark", "signing key")
"""Those that whoever sends the work decides: a proof is made without timing it, and a node has no key to sign with."""


def main() -> NoReturn:
    """Do what standard input says, and end this process."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(line: Mapping[str, Any]) -> None:
        answers.write(f"{json.dumps(line, ensure_ascii=False)}\n")

    code = 0
    try:
        for line in sys.stdin:
            order = json.loads(line)
            with _standing(order):
                answer = exported(order, lambda event: tell({"event": asdict(event)}))
            tell({"end": answer})
    except InterruptedRunError as stopped:
        code = stopped.exit_code
    sys.exit(code)


@contextmanager
def _standing(order: Mapping[str, Any]) -> Iterator[None]:
    """Be where an order's files lie, with its folders of code and its variables, while the block runs."""
    path, variables = list(sys.path), dict(os.environ)
    os.chdir(order["directory"])
    sys.path += order["folders"]
    os.environ.update(order["variables"])
    importlib.invalidate_caches()  # folders of a name may be others now
    try:
        yield
    finally:
        os.chdir("/")
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)


def exported(order: Mapping[str, Any], report: Callable[[Event], None]) -> dict[str, Any]:
    """Export as an order says; return what came of it as JSON values."""
    path = Path(order["config"])
    found: dict[str, Any] = {"processor": processor()}
    try:
        return found | _exported(path, order, report)
    except WeighbridgeError as error:
        return found | {"failure": failure_of(error).model_dump()}


def _exported(path: Path, order: Mapping[str, Any], report: Callable[[Event], None]) -> dict[str, Any]:
    settings = Settings(
        out=Path(order["out"]),
        trust=tuple(order["trust"]),
        overrides=tuple(order["overrides"]),
        rebuild=order["rebuild"],
        benchmark=order["benchmark"],
        reuse_timings=order["reuse_timings"],
        max_bytes=order["max_bytes"],
        report=report,
        slots=NodeSlots(memory_bytes=order["memory_bytes"]),
        shared=_shared(order),
    )
    parts = keys.of_release(plan(path, settings), settings)
    if order["expected"] is not None:
        _require_same(order["expected"], parts)
    outcome = export(path, settings)
    return {"release": outcome.release.name, "why": outcome.why, "parts": parts}


def _shared(order: Mapping[str, Any]) -> SharedCache | None:
    """Return the cache that machines share, if there is one; raises InputError where the key is not on this node."""
    if (told := order.get("shared")) is None:
        return None
    if told["key"] is not None and not Path(told["key"]).is_file():
        raise InputError(
            f"there is no key {told['key']} on this node, and private keys do not travel",
            hint="put it there on every node, for your eyes only",
        )
    trusted = []
    for text in told["trusted"]:
        # By its digest: tasks of other runs, which trust others, have the same folder.
        trusted.append(Path(order["out"]) / f".trusted-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pub.pem")
        atomic_write(trusted[-1], text.encode())
    return SharedCache(told["url"], told["key"] and Path(told["key"]), tuple(trusted))


def _require_same(expected: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Raise UnavailableError where this node would build from something else than whoever sent the work."""
    but = (*ELSEWHERE, *_SENDER)
    if changes := up_to_date.describe_changes(up_to_date.without(expected, but), up_to_date.without(parts, but)):
        raise UnavailableError(
            f"this node would build something else than the machine that sent the work: {changes}",
            hint="install the same versions of weighbridge, Python and packages on every node",
        )


def _stop(number: int, _frame: object) -> NoReturn:
    STOPPING.signal_number = number
    process.stop_all()
    raise InterruptedRunError


if __name__ == "__main__":
    main()
