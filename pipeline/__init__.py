"""weighbridge: from a state dict to a release that is proven to compute what the network computes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.rebuild.record import record
    from pipeline.release.load import load_release

__all__ = ["load_release", "record"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what the library offers at its first use: `import pipeline` itself stays instant."""
    if name == "load_release":
        return import_module("pipeline.release.load").load_release
    if name == "record":
        return import_module("pipeline.rebuild.record").record
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
