"""What is claimed of how good an artifact is, and what became of it, as parity.json holds it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.storage.documents import Count, Many, Number, Part


class Claim(Part):
    """What was claimed of all inputs, and what became of it: a value, its one-sided bounds, and the limit it is held against.

    Of sqnr_db and top1_agreement the value is a share of samples, of a metric the mean of what the artifact gives − what the network gives.
    """

    criterion: Literal["sqnr_db", "top1_agreement", "metric"]
    output: str | None = Field(description="null: a metric, which is of all outputs")
    verdict: Literal["pass", "fail", "undecided"]
    value: Number
    lower: Number
    upper: Number
    limit: Number
    samples: Count
    threshold: Number | None = Field(default=None, description="The least dB that a sample may have")
    lowest: Number | None = Field(default=None, description="The worst sample's dB, or difference")
    median: Number | None = Field(default=None, description="The median sample's dB, or difference")
    network: Number | None = Field(default=None, description="The metric's mean of what the network gives")
    fewest: Count | None = Field(
        default=None, description="More samples that decide if all of them are as good as can be"
    )
    more: Count | None = Field(default=None, description="More samples that decide in nine of ten cases")

    def in_words(self) -> str:
        """Say in one line what was seen, how sure that is, and what was wanted."""
        if self.criterion == "metric":
            name = "mean difference of the metric"
            seen = f"{self.value:+.4g}, at least {self.lower:+.4g} and at most {self.upper:+.4g}; more than {self.limit:+.4g} wanted"
            return f"{name}: {seen} (network {self.network or 0:.4g}, {self.samples:,} samples)"
        hits = round(self.value * self.samples)
        what = f"have at least {self.threshold:g} dB" if self.threshold is not None else "agree"
        bound = f"at most {_percent(self.upper)}" if self.verdict == "fail" else f"at least {_percent(self.lower)}"
        typical = (
            f"; median {self.median:.1f} dB, lowest {self.lowest:.1f}"
            if self.median is not None and self.lowest is not None
            else ""
        )
        return (
            f"{self.output}: {hits:,} of {self.samples:,} samples {what}, so {bound} of all inputs; "
            f"{_percent(self.limit)} wanted{typical}"
        )

    def advice(self) -> str:
        """Say how many more samples would decide; empty where it is decided."""
        if self.verdict != "undecided":
            return ""
        if self.more is None and self.fewest is None:
            return "no number of samples would decide it"
        supposed = " if there is no drop" if self.criterion == "metric" else ""
        sure = (
            f"{self.more:,} more samples decide it in nine of ten cases{supposed}"
            if self.more is not None
            else "no number of samples is sure to decide it"
        )
        return sure + (f", {self.fewest:,} at best" if self.fewest is not None and self.fewest != self.more else "")


def _percent(share: float) -> str:
    return f"{share:.2%}".replace(".00%", "%")


class Accuracy(Part):
    """Whether what an artifact gives is good enough, on the user's own samples, run by the backend `variant`."""

    verdict: Literal["pass", "fail", "undecided", "crashed"]
    variant: str
    required: bool = Field(description="Whether a required backend opens it, so that nothing but a pass releases it")
    file: str
    sha256: str = Field(description="Of the file of samples")
    confidence: float
    claims: Many[Claim]
    problem: str | None = Field(default=None, description="Why it could not be judged")

    @property
    def closes(self) -> bool:
        """Whether no release may be written for it."""
        return self.required and self.verdict != "pass"

    @property
    def deciding(self) -> tuple[Claim, ...]:
        """The claims that its verdict is of, all of them where it passed."""
        return tuple(each for each in self.claims if each.verdict == self.verdict)

    def in_words(self) -> str:
        """Say in one line what decided."""
        if self.problem is not None:
            return f"could not be judged: {self.problem}"
        return "; ".join(
            each.in_words() + (f"; {advice}" if (advice := each.advice()) else "") for each in self.deciding
        )
