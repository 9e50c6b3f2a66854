"""What passed before, under keys that hold everything it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.run import cached
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.run.stages.state import State


def known(state: State, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Return the answers that are kept under some of the keys, by the keys' names."""
    found = {name: cached.get(state.cache, key) for name, key in wanted.items()}
    kept = {name: answer for name, answer in found.items() if answer is not None}
    for name in kept:
        state.settings.report(Event("parity", name, "reused"))
    return kept


def keep(state: State, key: str, subject: str, answer: Any) -> None:
    """Keep an answer."""
    cached.get_or_make(state.cache, key, f"{state.plan.config.name}: parity of {subject}", lambda _: answer)
