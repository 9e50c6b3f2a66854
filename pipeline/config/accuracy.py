"""When what an artifact gives is good enough: the section of a gate, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from pipeline.config.fields import ARRAYS_FILE, Line, Number, Positive, Section
from pipeline.config.tree import Problem
from pipeline.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.config.tree import KeyPath

Share = Annotated[float, Field(gt=0, lt=1)]


class AccuracyConfig(Section):
    """How near an artifact's outputs must be to the float64 network's, on samples of the user's own."""

    samples: Annotated[str, Field(pattern=ARRAYS_FILE)] = Field(
        description="Inputs to judge on (.npz or .safetensors), a sample a row, relative to this file; other arrays in it are for the metric"
    )
    sqnr_db: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None,
        description="Least signal-to-quantisation-noise ratio of each output, in dB, of a `share` of inputs",
    )
    share: Share = Field(default=0.9, description="Least share of inputs that have sqnr_db")
    top1_agreement: Share | None = Field(
        default=None,
        description="Least share of inputs in which the largest value along an output's last axis lies where the network has it; "
        "outputs of whole numbers are equal",
    )
    metric: Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+$")] | None = Field(
        default=None,
        description="Function of one sample, as package.module:function: (outputs, sample) -> number, more is better; it must be trusted",
    )
    margin: Positive | None = Field(
        default=None, description="Largest drop of the metric's mean that is as good as none; goes with metric"
    )
    range: Annotated[list[Number], Field(min_length=2, max_length=2)] = Field(
        default=[0, 1], description="Least and largest value that the metric can have"
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        default=0.95, description="How sure a verdict is: otherwise it is undecided, which closes the gate"
    )
    outputs: list[Line] = Field(
        default=[], description="Outputs that sqnr_db and top1_agreement are asked of; by default all"
    )

    @property
    def width(self) -> float:
        """The largest difference between two values of the metric."""
        return float(self.range[1]) - float(self.range[0])


class _Gate(Protocol):
    """A gate, as far as it is looked at here."""

    @property
    def accuracy(self) -> AccuracyConfig | None: ...


def check_all(gates: Mapping[str, _Gate], outputs: list[str]) -> Iterator[Problem]:
    """Yield what is wrong with what gates ask of accuracy."""
    for name, gate in gates.items():
        if gate.accuracy is not None:
            yield from check(("gates", name, "accuracy"), gate.accuracy, outputs)


def check(path: KeyPath, accuracy: AccuracyConfig, outputs: list[str]) -> Iterator[Problem]:
    """Yield what contradicts in it, and outputs that there are not."""
    given = accuracy.model_fields_set
    if all(each is None for each in (accuracy.sqnr_db, accuracy.top1_agreement, accuracy.metric)):
        yield Problem(path, "expected sqnr_db, top1_agreement, or metric with margin")
    if (accuracy.metric is None) != (accuracy.margin is None):
        missing, there = ("margin", "metric") if accuracy.margin is None else ("metric", "margin")
        yield Problem((*path, there), f"goes with {missing}, which is missing")
    low, high = accuracy.range
    if low >= high:
        yield Problem((*path, "range"), f"{high} is not above {low}")
    elif accuracy.margin is not None and accuracy.margin >= accuracy.width:
        yield Problem(
            (*path, "margin"),
            f"{accuracy.margin:g} is no less than the metric's whole range, which is {accuracy.width:g}",
        )
    for key, needs in (("share", "sqnr_db"), ("range", "metric")):
        if key in given and getattr(accuracy, needs) is None:
            yield Problem((*path, key), f"goes with {needs}, which is missing")
    for index, each in enumerate(accuracy.outputs):
        if each not in outputs:
            yield Problem((*path, "outputs", index), f"{each!r} is not in outputs{suggestion(each, outputs)}")
