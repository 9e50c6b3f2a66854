"""The library that draws the plots of an HTML report (Vega), put together once per user and version."""

from __future__ import annotations

import logging
import os
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from pipeline.errors import WeighbridgeError
from pipeline.storage.cache import Cache

_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_FILE = "library.js"
_SAID = logging.getLogger(__name__)


@cache
def library(vega_lite: str | None) -> str:
    """Return the library with this version of Vega-Lite as the text of a script: about 900 kB.

    Putting it together takes seconds, so it is kept below $XDG_CACHE_HOME (~/.cache) where that can be written to. Nothing in its
    strings ends the script element that it stands in.
    """
    key = sha256(f"{version('vl-convert-python')} {vega_lite} {_SNIPPET}".encode()).hexdigest()
    kept = Cache(_folder(), _SAID.info)
    try:
        folder = kept.get(key) or kept.put(key, partial(_fill, vega_lite), "the library of the plots")
        return (folder / _FILE).read_text(encoding="utf-8")
    except (WeighbridgeError, OSError) as error:
        _SAID.info("the library of the plots is not kept: %s", error)
        return _bundled(vega_lite)


def _fill(vega_lite: str | None, folder: Path) -> None:
    (folder / _FILE).write_text(_bundled(vega_lite), encoding="utf-8")


def _bundled(vega_lite: str | None) -> str:
    import vl_convert

    bundled: str = vl_convert.javascript_bundle(_SNIPPET, vega_lite)
    return bundled.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _folder() -> Path:
    kept = os.environ.get("XDG_CACHE_HOME")
    return Path(kept if kept and Path(kept).is_absolute() else Path.home() / ".cache") / "weighbridge"
