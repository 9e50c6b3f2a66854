"""What a run did, for machines: its events as JSON lines, and `run.json`, which sums them up."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.storage.store import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.worker.event import Event

RUN = "run.json"
SCHEMA_VERSION = 1
_WORTH_TELLING_S, _LONG_S = 0.05, 2.0


class Recorder:
    """Passes events on to `show`, and remembers when each came. Events may come from several threads.

    `usual_s`: how long stages and steps took when they were last made, by `step_name`; whoever is shown their start is told.
    """

    def __init__(self, show: Callable[[Event], None], usual_s: Mapping[str, float] | None = None) -> None:
        self._show = show
        self._usual_s = dict(usual_s or {})
        self._events: list[tuple[float, Event]] = []
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._started_at = datetime.now(UTC)

    def __call__(self, event: Event) -> None:
        """Remember an event and show it."""
        with self._lock:
            self._events.append((time.monotonic() - self._began_s, event))
        if event.status == "started":
            event = replace(event, usual_s=self._usual_s.get(step_name(event.stage, event.subject)))
        self._show(event)

    def where_time_went(self) -> str:
        """Return in a line how long the run and its stages took, each with its longest step; "" for a run of under two seconds."""
        with self._lock:
            events = tuple(self._events)
        took_s = time.monotonic() - self._began_s
        stages = [(event.stage, event.subject) for _, event in events if event.is_stage]
        steps = _steps(events)
        told = []
        for stage, run in dict.fromkeys(stages):
            mine = [each for each in steps if each["stage"] == stage and "seconds" in each]
            whole = next((each["seconds"] for each in mine if each["step"] == run), 0.0)
            if whole < _WORTH_TELLING_S:
                continue
            parts = [each for each in mine if each["step"] != run and each["status"] != "reused"]
            longest = max(parts, key=lambda each: float(each["seconds"]), default=None)
            inner = f" ({longest['step']} {longest['seconds']:.1f} s)" if longest else ""
            told.append(f"{stage} {whole:.1f} s{inner}")
        return f"took {took_s:.1f} s: {', '.join(told)}" if told and took_s >= _LONG_S else ""

    def summary(self, name: str, *, exit_code: int, **facts: Any) -> dict[str, Any]:
        """Return run.json: what became of the run, with the time, memory and source (made or reused) of each of its steps."""
        with self._lock:
            events = tuple(self._events)
        steps = _steps(events)
        reused = {each["stage"] for each in steps if each["status"] == "reused"}
        made_s = {
            step_name(each["stage"], each["step"]): each["seconds"]
            for each in steps
            if each["status"] == "ended" and not (each["stage"] in reused and each["step"] == name)
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "started_at": self._started_at.isoformat(timespec="milliseconds"),
            "elapsed_s": round(time.monotonic() - self._began_s, 3),
            "exit_code": exit_code,
            **facts,
            "notes": [event.detail for _, event in events if event.status == "noted"],
            "steps": steps,
            "usual_s": self._usual_s | made_s,
        }


def step_name(stage: str, step: str) -> str:
    """Return how a step is called among those whose usual time is known."""
    return f"{stage}/{step}"


def usual_s(file: Path) -> dict[str, float]:
    """Return how long stages and steps took when they were last made, as an earlier run.json has it; nothing if there is none."""
    try:
        found = read_json(file)["usual_s"]
        return {str(name): float(each) for name, each in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


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
