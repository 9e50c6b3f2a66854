"""One part of many configs, the same on every machine: what `export --shard i/n` takes, and the record of how that went.

A config's place is its path below the folder that all of them share, so that neither the order of the arguments nor where a checkout
lies decides anything. Each goes, the costly ones first, to the part that has the least to do so far.
Source: Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17 (1969): within 4/3 of the best split.
"""

from __future__ import annotations

import heapq
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.config import source
from pipeline.errors import InputError, WeighbridgeError, in_line
from pipeline.storage.documents import Count, Many, Part
from pipeline.storage.store import atomic_write, canonical_json
from pipeline.weights.files import split_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 10_000
_FORM = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
_CONFIG_BYTES = 50_000_000
"""What every config costs beside its weights, in bytes of weights: importing, capturing and judging take seconds for the smallest."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a split: the `index`-th of `count`, from 1; both of its tables are by a config's place."""

    index: int
    count: int
    configs: Mapping[str, Path]
    split: Mapping[str, int]

    def in_words(self) -> str:
        """Say which configs it has."""
        whole = f"shard {self.index} of {self.count}"
        if not self.configs:
            return f"{whole}: none of {len(self.split)} configs is in it"
        return f"{whole}: {len(self.configs)} of {len(self.split)} configs: {in_line(list(self.configs))}"


class ConfigRun(Part):
    """What became of one config; `name` is that of its release, null where the config does not tell."""

    config: str
    name: str | None
    version: str | None
    exit_code: Count
    error: str | None


class Record(Part):
    """What a shard came to, as `shard-I-of-N.json` has it beside the releases."""

    schema_version: Literal[1]
    index: Count
    count: Count
    split: dict[str, Count] = Field(description="The part of every config, by its path below the folder all share")
    at: str = Field(description="When it began, or ended")
    ended: bool
    runs: Many[ConfigRun]


def file_name(index: int, count: int) -> str:
    """Return what the record of a shard is called."""
    return f"shard-{index}-of-{count}.json"


def take(configs: Sequence[Path], wanted: str, overrides: Sequence[str] = ()) -> Shard:
    """Return the part of configs that `wanted`, as in "2/5", names; a config that is given twice counts once.

    Raises:
        InputError: it names no part.
    """
    found = _FORM.fullmatch(wanted)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count <= MOST:
        raise InputError(
            f"--shard {wanted[:40]!r} names no part of a whole",
            hint=f"give a part and how many there are, as in --shard 1/5: from 1, and of at most {MOST:,}",
        )
    given = {each.resolve(): each for each in reversed(configs)}  # the first of two ways to write one stays
    top = os.path.commonpath([each.parent for each in given])
    places = {each.relative_to(top).as_posix(): path for each, path in given.items()}
    split = _split({place: _cost_bytes(path, overrides) for place, path in places.items()}, count)
    return Shard(index, count, {place: path for place, path in sorted(places.items()) if split[place] == index}, split)


def _split(costs: Mapping[str, int], count: int) -> dict[str, int]:
    """Return the part of each config, from 1."""
    loads = [(0, part) for part in range(1, count + 1)]  # in bytes: a heap
    found = {}
    for place in sorted(costs, key=lambda each: (-costs[each], each)):
        load, part = loads[0]
        heapq.heapreplace(loads, (load + costs[place], part))
        found[place] = part
    return found


def _cost_bytes(config: Path, overrides: Sequence[str]) -> int:
    """Return what a config costs: its weights, where they are a file here, and what everything costs."""
    try:
        read = source.read(config, overrides)
        given, _ = split_key(str(read.tree["model"]["weights"]))
        return _CONFIG_BYTES + Path(read.places["model.weights"].folder, given).stat().st_size
    except (WeighbridgeError, OSError, KeyError, TypeError, ValueError):
        return _CONFIG_BYTES  # what is wrong with it is told by whoever exports it


def keep(
    shard: Shard, out: Path, overrides: Sequence[str], outcomes: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Keep a record of a shard in `out`: that it began, or what came of its configs, as `export --json` has it.

    Raises:
        WeighbridgeError: the record cannot be written.
    """
    places = {str(path): place for place, path in shard.configs.items()}
    record = Record(
        schema_version=1,
        index=shard.index,
        count=shard.count,
        split=dict(shard.split),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        ended=outcomes is not None,
        runs=tuple(_run(each, places[each["config"]], overrides) for each in outcomes or ()),
    )
    atomic_write(out / file_name(shard.index, shard.count), canonical_json(record.to_json()))


def _run(outcome: Mapping[str, Any], place: str, overrides: Sequence[str]) -> ConfigRun:
    release, error = outcome.get("release"), outcome.get("error")
    return ConfigRun(
        config=place,
        name=Path(release).parent.name if release else _name(Path(outcome["config"]), overrides),
        version=Path(release).name if release else None,
        exit_code=outcome["exit_code"],
        error=error["message"] if error else None,
    )


def _name(config: Path, overrides: Sequence[str]) -> str | None:
    """Return the name that a config which failed gives its release, if that can be read."""
    try:
        name = source.read(config, overrides).tree["name"]
    except (WeighbridgeError, OSError, KeyError):
        return None
    return name if isinstance(name, str) else None
