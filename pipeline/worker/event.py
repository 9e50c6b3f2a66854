"""What a run tells of its progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something a run did, for progress and logs.

    `status`: started, working, ended, failed, reused (found in the cache), or noted (a remark on the whole run).
    `done`: the share of the work; `peak_bytes`: the most memory its process had resident.
    """

    stage: str
    subject: str
    status: str
    detail: str = ""
    done: float | None = None
    peak_bytes: int | None = None
