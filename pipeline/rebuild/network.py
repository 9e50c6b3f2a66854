"""What a network is built from."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read when requests are validated
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.interface import Interface  # noqa: TC001 - as above
from pipeline.weights.verified import Verified  # noqa: TC001 - as above


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its state dict, as a child process needs them to build it.

    `places` maps "model.arguments" and what is written below it to where it stands in the config, for error messages.
    `rename` and `ignore` are the config's exceptions from strict loading; `max_bytes` bounds the weights file; `key` picks
    one of several state dicts in it. `folder` is the config's: objects among the arguments may read files there. `verified`:
    what the weights file was when the run took its digest. `arriving`: what the network takes with its preprocessing in front; None
    where there is none.
    """

    architecture: str
    arguments: Mapping[str, Any]
    weights: str
    trust: tuple[str, ...]
    places: Mapping[str, str]
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    max_bytes: int | None = None
    folder: str = "."
    key: str | None = None
    verified: Verified | None = None
    arriving: Interface | None = None

    def alone(self) -> Network:
        """Return the network without preprocessing."""
        return replace(self, arriving=None)
