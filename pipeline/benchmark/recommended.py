"""What recommended.json holds, which `weighbridge tune` adds to a release's report: the model behind its published JSON Schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from pipeline.storage.documents import Count, Many, Number, Part, Positive, schema_of

FILE = "recommended.json"
"""Its name, in a release's report: what depends on a machine and on chance is no part of what was proven."""
OWN = "own"
"""The precision of an artifact that states none: that of the network."""

Objective = Literal["latency", "throughput", "memory", "size"]
Interval = Annotated[tuple[Positive, Positive], Field(description="95 %, of this difference alone")]


class Choice(Part):
    """What to run: a backend as the manifest lists it, by its name there, and all of the options to open it with."""

    variant: str
    backend: str
    artifact: str
    options: dict[str, JsonValue]


class P99(Part):
    """The 99th percentile of a call with bounds that hold whatever its distribution; null: too few calls."""

    value_ms: Positive
    low_ms: Positive | None
    high_ms: Positive | None
    calls: Count


class Candidate(Part):
    """One that was raced: what it is, and what was measured. `ratio`: the objective ÷ that of the one that led."""

    name: str
    choice: Choice
    precision: str
    factor: Number | None = Field(
        description="Its largest error in multiples of the noise floor, or of what its gate allows"
    )
    file_bytes: Count
    median_ms: Positive | None = Field(description="Of a call; where several were under way, of one of them ÷ how many")
    p99: P99 | None
    peak_bytes: Count | None = Field(description="Median over launches, over that of an idle process")
    ratio: Positive | None
    interval: Interval | None
    launches: Count
    left: str | None = Field(description="After which launch it left, and why; null: it was left at the end")


class Limits(Part):
    """What a candidate had to keep; null: anything."""

    p99_ms: Positive | None = None
    memory_bytes: Count | None = None
    bytes: Count | None = None
    precision: tuple[str, ...] | None = None


class Recommended(Part):
    """Which of the proven ways to run a release is the best on one kind of processor, and how that was found out."""

    schema_version: Literal[1] = Field(description="Version of this schema")
    digest: str = Field(description="Of the release that it is about")
    processor: str = Field(
        description="The kind of processor that it holds for: model, and a digest of its instruction sets"
    )
    device: str = Field(
        default="", description="The device beside the processor that the choice runs on, with its driver"
    )
    cores: Count = Field(description="Processors that could be used")
    objective: Objective
    sizes: dict[str, Count]
    callers: str = Field(description="How many calls were under way at once")
    limits: Limits
    margin: float = Field(description="Relative differences below this count as the same")
    result: Literal["best", "not told apart"]
    choice: Choice
    chosen: str = Field(description="The candidate that is the choice")
    tied: Many[str] = Field(description="Those that cannot be told apart, the chosen one among them")
    why: str
    candidates: Many[Candidate]
    launches: Count = Field(description="Of the race")
    confirmations: Count = Field(description="New launches, which alone decided who won")
    seconds: float = Field(description="Taken by launches, of a budget of")
    budget_s: float
    more_s: float | None = Field(
        description="How much more might tell apart what is not; null: nothing is left to be told"
    )
    tools: dict[str, str] = Field(description="Versions of what was measured with")
    notes: Many[str]

    def candidate(self, name: str) -> Candidate | None:
        """Return a candidate by name."""
        return next((each for each in self.candidates if each.name == name), None)


BEST = {
    "latency": "the fastest",
    "throughput": "the fastest with calls on all processors",
    "memory": "the one with the least memory",
    "size": "the smallest",
}
"""What the best one is called, by objective."""


def in_words(found: Recommended) -> str:
    """Say in a line what is recommended, and how sure that is."""
    others = [name for name in found.tied if name != found.chosen]
    if found.result == "best":
        return f"{BEST[found.objective]} is {found.chosen}: {found.why}"
    if not others:
        return f"{found.chosen} is taken: {found.why}"
    return (
        f"cannot be told apart: {', '.join(found.tied)} ({found.why}); {found.chosen} is taken: of those within the margin of the best "
        "estimate the first by memory, then by size of files, then by fewest threads"
    )


def schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of recommended.json."""
    return schema_of(Recommended, "recommended", 1, "weighbridge tune recommendation")
