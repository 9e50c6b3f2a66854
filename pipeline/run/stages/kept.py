"""What passed before, under keys that hold everything it depends on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.run import cached

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.run.stages.state import State


@contextmanager
def known(state: State, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the answers that are kept under some of the keys, by the keys' names.

    The others are for the block to find and `keep`: where machines share results, nobody else does meanwhile.
    """
    found = {name: cached.get(state.cache, key) for name, key in wanted.items()}
    missing = {wanted[name]: _about(state, name) for name, each in found.items() if each is None}
    with state.cache.held(missing):
        if state.settings.shared and missing:  # somebody else may have made them while we waited
            found |= {name: cached.get(state.cache, key) for name, key in wanted.items() if key in missing}
        kept = {name: each for name, each in found.items() if each is not None}
        for name, each in kept.items():
            state.settings.report(cached.ended("parity", name, each))
        yield {name: each.answer for name, each in kept.items()}


def keep(state: State, key: str, subject: str, answer: Any) -> None:
    """Keep an answer."""
    cached.keep(state.cache, key, _about(state, subject), answer)


def _about(state: State, subject: str) -> str:
    return f"{state.plan.config.name}: parity of {subject}"
