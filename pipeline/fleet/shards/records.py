"""The records that shards left, when their results are put together: what failed in them, and whether they are a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import InputError, in_line
from pipeline.fleet.folders import Run
from pipeline.fleet.shards import shard
from pipeline.release import bundle
from pipeline.storage.store import atomic_write, canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.fleet.shards.merged import Merged
    from pipeline.fleet.shards.shard import Record


def gather(sources: Sequence[Path], out: Path, *, is_given: bool) -> Iterator[Record]:
    """Yield the records of shards that the sources have, and those in `out`: all if it is one of them, else of as many shards.

    The newest of each is kept in `out`.

    Raises:
        InputError: a file is no record of a shard.
    """
    found: dict[str, Record] = {}
    for root in [*sources, out]:
        for file in sorted(root.glob("shard-*-of-*.json")):
            try:
                record = shard.Record.read(file)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{file} is no record of a shard: {error!s:.200}", hint="remove it, or fetch it again"
                ) from None
            name = shard.file_name(record.index, record.count)
            is_wanted = root != out or is_given or any(each.count == record.count for each in found.values())
            if is_wanted and (name not in found or record.at > found[name].at):
                found[name] = record
    for name, record in sorted(found.items()):
        content = canonical_json(record.to_json())
        if not (out / name).is_file() or (out / name).read_bytes() != content:
            atomic_write(out / name, content)
        yield record


def failures(records: Sequence[Record], merged: Sequence[Merged], out: Path) -> dict[str, str]:
    """Return the configs that failed in a shard, unless a later run of their name went well."""
    known = {each.name for each in merged if each.failure}
    found = {}
    for record in records:
        for each in record.runs:
            later = Run.of(out / each.name) if each.name and bundle.NAME.fullmatch(each.name) else None
            is_mended = later is not None and later.exit_code == 0 and later.started_at > record.at
            if each.exit_code and each.name not in known and not is_mended:
                found[each.config] = each.error or f"it ended with exit code {each.exit_code}"
    return found


def problems(records: Sequence[Record]) -> Iterator[str]:
    """Yield what is wrong with the shards: one that is missing, that was stopped, or that split something else."""
    for count in sorted({each.count for each in records}):
        here = [each for each in records if each.count == count]
        if missing := sorted(set(range(1, count + 1)) - {each.index for each in here}):
            yield f"of {count} shards there is no {in_line(list(map(str, missing)))}"
        for each in here:
            if not each.ended:
                yield f"shard {each.index} of {count} did not come to its end"
            if each.split != here[0].split:
                others = [
                    name
                    for name in each.split.keys() | here[0].split.keys()
                    if each.split.get(name) != here[0].split.get(name)
                ]
                yield (
                    f"shards {here[0].index} and {each.index} of {count} did not split the same configs in the same way: "
                    f"they differ on {in_line(sorted(others))}"
                )
