"""Counters of the energy that CPU packages have used, where the machine has them and lets us read them.

Source: Linux's Documentation/power/powercap/powercap.rst (RAPL).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Meter = Callable[[], float]
    """Joules used since some moment."""


def cpu_meter(root: Path = Path("/")) -> Meter | None:
    """Return a meter over all CPU packages by RAPL, or None if there is none that may be read."""
    files = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj"))
    files = [each for each in files if each.parent.name.count(":") == 1]
    try:
        ranges = {each: int((each.parent / "max_energy_range_uj").read_text()) for each in files}
        last = {each: int(each.read_text()) for each in files}
    except (OSError, ValueError):
        return None
    if not files:
        return None
    total_uj = 0

    def read() -> float:
        nonlocal total_uj
        for file in files:
            now = int(file.read_text())
            total_uj += (now - last[file]) % (ranges[file] + 1)  # the counter wraps around
            last[file] = now
        return total_uj / 1e6

    return read
