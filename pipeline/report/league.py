"""What a table of many releases holds, as `weighbridge league --json` prints it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from pipeline.benchmark.machine import Machine  # noqa: TC001 - pydantic evaluates annotations in this module
from pipeline.report.words import printable
from pipeline.storage.documents import Count, Many, Number, Part, Positive, schema_of

Text = Annotated[str, AfterValidator(printable)]
"""Of a report, which is not signed and may be a stranger's: cut, in one line, and nothing but what can be printed."""
Outcome = Literal["worse", "undecided", "better"]


class Timing(Part):
    """What a backend took at some sizes; `ratio` is to `reference`, below 1 is faster."""

    sizes: dict[Text, Count]
    reference: Text
    verdict: Text
    ratio: Positive | None
    interval: tuple[Positive, Positive] | None
    median_ms: Positive | None
    median_interval_ms: tuple[Positive, Positive] | None
    launches: Count


class Row(Part):
    """One artifact on one backend; an artifact that no backend opened has a row of its own."""

    artifact: Text
    backend: Text
    required: bool
    verdict: Text = Field(
        description="pass, fail, crashed, unavailable, refused, or not released: right, and not let through"
    )
    reason: Text = ""
    factor: Number | None = Field(default=None, description="The largest error in multiples of the noise floor")
    limit: Number | None = None
    size_bytes: Count | None = None
    peak_bytes: Many[Count] = Field(default=(), description="Of each launch, over that of an idle process")
    precision: Text = ""
    accuracy: Text = Field(default="", description="What became of the gate on accuracy; empty: there is none")
    recommended: Text = Field(default="", description="Whether `weighbridge tune` chose it, and for what")
    timings: Many[Timing] = ()


class TimedSizes(Part):
    """How the run at some sizes went."""

    sizes: dict[Text, Count]
    reference: Text
    can_tell: bool
    reason: Text


class Entry(Part):
    """A release, or the last run of a name that ended without one; `node` is the machine it was timed on, by its index."""

    name: Text
    version: Text
    state: Literal["released", "failed", "damaged"]
    latest: bool = Field(description="Whether it is the newest of its name")
    problem: Text = Field(default="", description="Why there is no release, or what cannot be read")
    digest: Text = ""
    weights: Text = Field(default="", description="The SHA-256 of the weights")
    tools: dict[Text, Text] = Field(default={})
    node: Count | None = None
    sizes: Many[TimedSizes] = ()
    rows: Many[Row] = ()


class Shift(Part):
    """One figure, or verdict, that is not what it was; `ratio` is now ÷ before, above 1 is worse."""

    name: Text
    what: Text
    where: Text
    outcome: Outcome
    required: bool = Field(description="Whether a required backend has it")
    reason: Text
    base: Number | None = None
    candidate: Number | None = None
    ratio: Number | None = None
    interval: tuple[Number, Number] | None = None


class Against(Part):
    """The table held against an older one."""

    margin: float
    shifts: Many[Shift]
    same: Count = Field(description="Figures that are what they were")
    notes: Many[Text]

    @property
    def closes(self) -> bool:
        """Whether something required is proven to be worse."""
        return any(each.required and each.outcome == "worse" for each in self.shifts)

    def of(self, outcome: Outcome) -> list[Shift]:
        """Return the shifts of an outcome, the required ones first."""
        return sorted((each for each in self.shifts if each.outcome == outcome), key=lambda each: not each.required)


class League(Part):
    """All releases; `machines` are the kinds of nodes that they were timed on."""

    schema_version: Literal[1] = Field(description="Version of this schema")
    passed: bool = Field(default=True, description="Whether nothing closes: false only against an older table")
    machines: Many[Machine]
    entries: Many[Entry]
    against: Against | None = None


def schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of what `weighbridge league --json` prints."""
    return schema_of(League, "league", 1, "weighbridge league")
