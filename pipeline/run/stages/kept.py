"""What passed before, under keys that hold everything it depends on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.run import cached

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.run.cached import Cached
    from pipeline.run.stages.state import State

_AT_ONCE = 8


@contextmanager
def known(state: State, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the answers that are kept under some of the keys, by the keys' names.

    The others are for the block to find and `keep`: where machines share results, nobody else does meanwhile.
    """
    found = _got(state, wanted)
    missing = {wanted[name]: _about(state, name) for name, each in found.items() if each is None}
    with state.cache.held(missing):
        if state.settings.shared and missing:  # somebody else may have made them while we waited
            found |= _got(state, {name: key for name, key in wanted.items() if key in missing})
        kept = {name: each for name, each in found.items() if each is not None}
        for name, each in kept.items():
            state.settings.report(cached.ended("parity", name, each))
        yield {name: each.answer for name, each in kept.items()}


def keep(state: State, key: str, subject: str, answer: Any) -> None:
    """Keep an answer."""
    cached.keep(state.cache, key, _about(state, subject), answer)


def _got(state: State, wanted: Mapping[str, str]) -> dict[str, Cached | None]:
    """Return what is kept under keys, by their names; of several that another place may have, at once."""
    cache = state.cache
    with ThreadPoolExecutor(_AT_ONCE if cache.shared else 1) as pool:
        return dict(zip(wanted, pool.map(partial(cached.get, cache), wanted.values()), strict=True))


def _about(state: State, subject: str) -> str:
    return f"{state.plan.config.name}: parity of {subject}"
