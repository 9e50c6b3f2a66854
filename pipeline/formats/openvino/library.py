"""OpenVINO's package, imported so that it tells nobody: at its import it would send what was imported to its makers.

`import openvino` sends an event to Google Analytics and writes a client's number below ~/intel, unless openvino_telemetry cannot be
imported; then it has a stand-in of its own that does nothing (openvino/tools/ovc/telemetry_utils.py of the package). A process that had
imported it before we came has made its own choice.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_TELEMETRY = "openvino_telemetry"


def load() -> Any:
    """Return the package `openvino`.

    Raises:
        ImportError: it is not installed.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return import_module("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # which is how a module is said not to be there
    try:
        return import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
