"""Who made a result that was not made here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a result elsewhere: the writer's key, by its id, on what processor, with which version of weighbridge."""

    writer: str
    processor: str
    weighbridge: str

    @property
    def short(self) -> str:
        """The writer, as short as a person tells keys apart by."""
        return self.writer[:16]


def origin_of(record: Mapping[str, Any]) -> Origin | None:
    """Return who made a kept result elsewhere, as the record of a cache has it; None if it was made here."""
    found = record.get("origin")
    return None if found is None else Origin(str(found["writer"]), str(found["processor"]), str(found["weighbridge"]))


def origin_to_json(origin: Origin) -> dict[str, str]:
    """Return what a cache's record says of who made a result."""
    return asdict(origin)
