"""What a run did, for machines: its events as JSON lines, and `run.json`, which sums them up."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.worker.event import Event

RUN = "run.json"
SCHEMA_VERSION = 1


class Recorder:
    """Passes events on to `show`, and remembers when each came. Events may come from several threads."""

    def __init__(self, show: Callable[[Event], None]) -> None:
        self._show = show
        self._events: list[tuple[float, Event]] = []
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._started_at = datetime.now(UTC)

    def __call__(self, event: Event) -> None:
        """Remember an event and show it."""
        with self._lock:
            self._events.append((time.monotonic() - self._began_s, event))
        self._show(event)

    def summary(self, name: str, *, exit_code: int, **facts: Any) -> dict[str, Any]:
        """Return run.json: what became of the run, with the time, memory and source (made or reused) of each of its steps."""
        with self._lock:
            events = tuple(self._events)
        return {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "started_at": self._started_at.isoformat(timespec="milliseconds"),
            "elapsed_s": round(time.monotonic() - self._began_s, 3),
            "exit_code": exit_code,
            **facts,
            "notes": [event.detail for _, event in events if event.status == "noted"],
            "steps": _steps(events),
        }


def _steps(events: tuple[tuple[float, Event], ...]) -> list[dict[str, Any]]:
    """Return each stage and each job in it in the order they started; one that never ended was interrupted."""
    steps: dict[tuple[str, str], dict[str, Any]] = {}
    for at_s, event in events:
        if event.status in {"working", "noted"}:
            continue
        step = steps.setdefault(
            (event.stage, event.subject),
            {"stage": event.stage, "step": event.subject, "status": "interrupted", "began_s": round(at_s, 3)},
        )
        if event.status == "started":
            continue
        step |= {"status": event.status, "seconds": round(at_s - step["began_s"], 3)}
        if event.detail:
            step["detail"] = event.detail
        if event.peak_bytes is not None:
            step["peak_bytes"] = event.peak_bytes
    return list(steps.values())


def print_line(name: str, event: Event) -> None:
    """Print an event as one JSON line on stderr."""
    line = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": name,
        "stage": event.stage,
        "step": event.subject,
        "status": event.status,
        **({"detail": event.detail} if event.detail else {}),
        **({"done": round(event.done, 4)} if event.done is not None else {}),
        **({"peak_bytes": event.peak_bytes} if event.peak_bytes is not None else {}),
    }
    print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
