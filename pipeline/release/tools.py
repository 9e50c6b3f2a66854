"""The versions of what a release's bytes and numbers depend on."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from pipeline import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

BASE = ("torch", "numpy")
"""What every release depends on, beside what its formats and backends state of themselves."""


def tools(further: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of what a release's bytes and numbers depend on, and our own; what is not installed is left out."""
    found = {"weighbridge": __version__}
    for name in dict.fromkeys((*BASE, *further)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
