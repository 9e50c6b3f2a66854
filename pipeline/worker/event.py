"""What a run tells of its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["started", "working", "ended", "failed", "reused", "noted"]
"""`reused`: found in the cache. `noted`: a remark on the whole run, in the detail."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a run did, for progress and logs.

    `detail` says more in words; `done` is the share of the work; `peak_bytes` the most memory its process had resident;
    `usual_s` how long it took when it was last made. `is_stage`: it tells of a whole stage, not of a step in it.
    """

    stage: str
    subject: str
    status: Status
    detail: str = ""
    done: float | None = None
    peak_bytes: int | None = None
    usual_s: float | None = None
    is_stage: bool = False
