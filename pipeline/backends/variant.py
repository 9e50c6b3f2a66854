"""A backend as a config asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Variant:
    """A backend with options, under the name its results carry.

    `artifact` is the name of what it opens, None for the network itself; `file` is where that lies, once it was made;
    `unavailable` the reason it cannot run here.
    `custom_ops` is a library of operators to load with it: code that only a command line may name.
    """

    name: str
    backend: str
    artifact: str | None
    required: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    unavailable: str | None = None
    custom_ops: Path | None = None
