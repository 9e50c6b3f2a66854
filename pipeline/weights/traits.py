"""What is special about a weights file, in the words of its first line: one shard of several, quantised, half precision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

QUANTISED = "quantised by torch"

_SHARD = re.compile(r"(?P<stem>.+)[-_.](?P<number>\d{1,6})[-_]of[-_](?P<count>\d{1,6})(?P<suffix>\.\w+)")
_PACKED = re.compile(r"(?:^|(?P<module>.*)\.)_packed_params(?:\.(?:_packed_params|dtype))?")
_SCALE = re.compile(r"(?:^|(?P<module>.*)\.)zero_point")
_HALF = ("float16", "bfloat16")


def traits_of(path: Path, dtypes: Mapping[str, str], others: Iterable[str]) -> tuple[str, ...]:
    """Return what is special about a state dict: `dtypes` of its tensors by name, and the names of what else is in it."""
    return (*_shard(path), *_quantised(dtypes, others), *_half(dtypes))


def _shard(path: Path) -> Iterator[str]:
    match = _SHARD.fullmatch(path.name)
    if match and int(match["count"]) > 1 and int(match["number"]) <= int(match["count"]):
        yield f"shard {int(match['number'])} of {int(match['count'])}"


def index_of(path: Path) -> Path | None:
    """Return the index that a shard would be named by, beside it; None for what is no shard."""
    match = _SHARD.fullmatch(path.name)
    return path.with_name(f"{match['stem']}{match['suffix']}.index.json") if match and any(_shard(path)) else None


def _quantised(dtypes: Mapping[str, str], others: Iterable[str]) -> Iterator[str]:
    """Tell what torch has quantised: dynamically, if only layers that pack their weights have a scale."""
    names = {*dtypes, *others}
    packed = {match["module"] for name in names if (match := _PACKED.fullmatch(name))}
    scaled = {match["module"] for name in dtypes if (match := _SCALE.fullmatch(name))}
    if packed and scaled <= packed:
        yield f"dynamically {QUANTISED}"
    elif packed or any(dtype.startswith(("qint", "quint")) for dtype in dtypes.values()):
        yield QUANTISED


def _half(dtypes: Mapping[str, str]) -> Iterator[str]:
    floating = {dtype for dtype in dtypes.values() if "float" in dtype}
    half = [dtype for dtype in _HALF if dtype in floating]
    if half:
        yield f"{'' if floating <= set(_HALF) else 'partly '}in half precision ({' and '.join(half)})"
