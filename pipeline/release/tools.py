"""The versions of what a release's bytes and numbers depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.backends.probe import installed_versions
from pipeline.backends.table import backends
from pipeline.formats.table import formats

if TYPE_CHECKING:
    from collections.abc import Iterable

BASE = ("torch", "numpy")
"""What every release depends on, beside what its formats and backends state of themselves."""


def tools(further: Iterable[str] | None = None) -> dict[str, str]:
    """Return the versions of what bytes and numbers depend on, and our own; what is not installed is left out.

    `further` are distributions beside those that everything depends on; by default those of every format and backend.
    """
    if further is None:
        further = [name for each in formats().values() for name in each.distributions]
        further += [name for each in backends().values() for name in each.distributions]
    return {"weighbridge": __version__} | installed_versions(dict.fromkeys((*BASE, *further)))
