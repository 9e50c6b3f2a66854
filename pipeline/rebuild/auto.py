"""transformers' Auto classes: they look in a config for the class to make, and are no network themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError

if TYPE_CHECKING:
    from pathlib import Path

_AUTO = re.compile(r"transformers(?:\.[\w.]+)?:(Auto(?:Model\w*|Backbone))")


def require_none(architecture: str, folder: Path | None = None) -> None:
    """Raise ArchitectureError for such a class, with the one that is meant where the config.json in a folder says it."""
    match = _AUTO.fullmatch(architecture)
    if match is None:
        return
    from pipeline.weights import pretrained  # reads files of every kind

    saved = pretrained.architecture_in(folder) if folder else None
    raise ArchitectureError(
        f"transformers:{match[1]} is no network: it picks one by the config that it is given",
        hint=f"name the one that was saved: --architecture transformers:{saved}"
        if saved
        else "name the class that config.json has under architectures, as in transformers:BertModel",
    )
