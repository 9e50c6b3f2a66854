"""What a merge came to, by name and as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import in_line

if TYPE_CHECKING:
    from pydantic import JsonValue

    from pipeline.errors import WeighbridgeError


@dataclass(slots=True)
class Merged:
    """What became of one name: the versions that were copied, the newest, what is to be known, and why its last run failed, if it did."""

    name: str
    copied: list[str] = field(default_factory=list)
    latest: str | None = None
    notes: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    failure: str | None = None
    error: WeighbridgeError | None = None

    def in_words(self) -> str:
        """Say in a line what was done."""
        done = [f"copied {in_line(self.copied)}"] if self.copied else []
        done += [f"wrote {in_line(self.written)}"] if self.written else []
        latest = f"latest is {self.latest}" if self.latest else "there is no release"
        return f"{self.name}: {'; '.join(done) or 'nothing to do'}; {latest}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a merge came to, by name; `failures` of configs by their place, and shards that are missing or do not belong together."""

    names: tuple[Merged, ...]
    failures: dict[str, str]
    shards: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """Return 0 where all is well, the highest of what could not be merged, 1 for what failed where it was exported."""
        errors = [each.error.exit_code for each in self.names if each.error]
        return max(errors, default=1 if self.failures or self.shards else 0)

    def in_words(self) -> str:
        """Say in a line what it came to."""
        copied = sum(len(each.copied) for each in self.names)
        wrong = sum(each.error is not None for each in self.names)
        said = (
            f"{len(self.names)} names, {copied} releases copied, {len(self.failures)} failed where they were exported"
        )
        return (
            said
            + (f", not merged: {wrong}" if wrong else "")
            + (", and the shards are no whole" if self.shards else "")
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as JSON values."""
        return {
            "exit_code": self.exit_code,
            "names": [
                {
                    "name": each.name,
                    "copied": [*each.copied],
                    "written": [*each.written],
                    "latest": each.latest,
                    "notes": [*each.notes],
                    "failure": each.failure,
                    "error": {"message": each.error.message, "hint": each.error.hint} if each.error else None,
                }
                for each in self.names
            ],
            "failures": {**self.failures},
            "shards": [*self.shards],
        }
