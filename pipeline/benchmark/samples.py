"""What a benchmark run leaves behind: every raw value as it was measured, readable again from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError

SCHEMA = 1
KEPT_CALLS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure and in what portions, fixed before the first measurement.

    `seconds` is the budget of the whole run, starting and stopping workers included. `launches` are wanted and
    `min_launches` are made even if the budget is too small for them; of `min_rounds` in each launch only the first is, then. A block of
    one backend lasts about `block_ms`, but at least one call and at most `max_calls`. Warm-up ends when the medians
    of `agreeing` consecutive windows of `window_ms` (of two, where one call fills a block) lie within `tolerance` of one
    another, or after `warm_up_s`. `reserve_s` of the budget is left to what is measured after the last round.
    """

    seconds: float
    launches: int = 6
    min_launches: int = 3
    min_rounds: int = 3
    block_ms: float = 60.0
    max_calls: int = 20_000
    warm_up_s: float = 1.0
    window_ms: float = 20.0
    agreeing: int = 3
    tolerance: float = 0.05
    concurrent_starts: int = 2
    reserve_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            InputError: a value is not positive, or a minimum is above what it is the minimum of.

        """
        for name in (each.name for each in dataclasses.fields(self)):
            if not (getattr(self, name) > 0 or (name == "reserve_s" and self.reserve_s == 0)):
                raise InputError(f"benchmark {name} is {getattr(self, name)}", hint="give a number above 0")
        if self.min_launches > self.launches:
            raise InputError(
                f"benchmark launches is {self.launches}, below the minimum of {self.min_launches}",
                hint=f"give at least {self.min_launches} launches: an interval needs their spread",
            )


@dataclass(frozen=True, slots=True)
class Block:
    """One backend's turn in one round: `calls` calls that took `total_ns` together.

    `durations_ns` holds each call, or, of more than 200, every so many so that 200 remain (see `thin`).
    """

    round: int
    calls: int
    total_ns: int
    durations_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a worker got up to speed: whether it settled, and the median time of a call in each window."""

    settled: bool
    calls: int
    medians_ns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ArmSamples:
    """One backend in one launch; `facts` are what its worker reported about itself (JSON values)."""

    facts: Mapping[str, Any]
    warm_up: WarmUp | None
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """One set of fresh workers: the order they were started in, each round's order, and where the time went.

    The seconds are the launch's, whose workers may have served other scenarios too.
    """

    start_order: tuple[str, ...]
    round_orders: tuple[tuple[str, ...], ...]
    arms: Mapping[str, ArmSamples]
    start_s: float
    warm_up_s: float
    measure_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class Samples:
    """A whole run in one scenario. `control` is the second copy of the reference; `failures` say why an arm dropped out."""

    reference: str
    control: str
    arms: tuple[str, ...]
    plan: Plan
    launches: tuple[Launch, ...]
    elapsed_s: float
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {"schema": SCHEMA, **plain(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Samples:
        """Read back what `to_json` wrote.

        Raises:
            InputError: the document is of another schema, or lacks something.

        """
        if document.get("schema") != SCHEMA:
            raise InputError(
                f"benchmark samples of schema {document.get('schema')!r}, and this version reads {SCHEMA}",
                hint="measure again, or use the version that wrote them",
            )
        try:
            return cls(
                reference=document["reference"],
                control=document["control"],
                arms=tuple(document["arms"]),
                plan=Plan(**document["plan"]),
                launches=tuple(_launch(each) for each in document["launches"]),
                elapsed_s=document["elapsed_s"],
                failures=dict(document["failures"]),
                notes=tuple(document["notes"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"benchmark samples are damaged: {error!r}", hint="measure again") from None


def thin(durations_ns: Sequence[int]) -> tuple[int, ...]:
    """Keep at most 200 of a block's calls, evenly spaced from the first on, so that no value decides what is kept."""
    count = len(durations_ns)
    if count <= KEPT_CALLS:
        return tuple(durations_ns)
    return tuple(durations_ns[index * count // KEPT_CALLS] for index in range(KEPT_CALLS))


def plain(value: Any) -> Any:
    """Turn frozen records, mappings and tuples into the dicts and lists that JSON has."""
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _launch(document: Mapping[str, Any]) -> Launch:
    return Launch(
        start_order=tuple(document["start_order"]),
        round_orders=tuple(tuple(order) for order in document["round_orders"]),
        arms={name: _arm(each) for name, each in document["arms"].items()},
        **{name: float(document[name]) for name in ("start_s", "warm_up_s", "measure_s", "stop_s")},
    )


def _arm(document: Mapping[str, Any]) -> ArmSamples:
    warm_up = document["warm_up"]
    return ArmSamples(
        facts=dict(document["facts"]),
        warm_up=WarmUp(**(warm_up | {"medians_ns": tuple(warm_up["medians_ns"])})) if warm_up else None,
        blocks=tuple(Block(**(each | {"durations_ns": tuple(each["durations_ns"])})) for each in document["blocks"]),
    )
