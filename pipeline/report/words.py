"""How figures are written wherever a report shows them; one that is not known is not written at all."""

from __future__ import annotations

import math
import re

_WHOLE_PATH = re.compile(r"(?<![\w.:/…])/(?:[^\s/'\"`:,;()]+/)+")
_MOST = 300  # characters of a text that a stranger may have written
_UNITS = ("B", "kB", "MB", "GB", "TB")


def in_units(size_bytes: float | None) -> str:
    """Return a number of bytes with a unit, powers of 1000."""
    if size_bytes is None:
        return ""
    for unit in _UNITS:
        if size_bytes < 1000 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    raise AssertionError


def milliseconds(value: float | None) -> str:
    """Return a duration in ms with three digits, in µs below 0.1 ms, in s from a second on."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value / 1e3:.3g} s"
    return f"{value * 1e3:.3g} µs" if value < 0.1 else f"{value:.3g} ms"


def factor(value: float | None) -> str:
    """Return a factor with three digits; what is not finite was not measurable in these terms."""
    if value is None:
        return ""
    return f"{value:.3g}" if math.isfinite(value) else "∞"


def printable(text: str) -> str:
    """Return a text as it may be shown: in one line, cut, and without what moves a cursor or turns a line around."""
    if len(text) <= _MOST and text.isprintable():
        return text
    shown = "".join(each if each.isprintable() else " " if each.isspace() else "�" for each in text[: _MOST + 1])
    return shown if len(shown) <= _MOST else f"{shown[: _MOST - 1]}…"


def without_folders(text: str) -> str:
    """Return a text with the files in it that have a whole path by their names alone: a table goes to others, who have other folders."""
    return _WHOLE_PATH.sub("…/", text)
