"""What benchmark.json holds: the model behind its published JSON Schema (`weighbridge schema --of benchmark`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from pipeline.benchmark.machine import Contention, Machine  # noqa: TC001 - pydantic evaluates annotations in this module
from pipeline.benchmark.measurements import Measurements  # noqa: TC001 - as above
from pipeline.benchmark.statistics import Row  # noqa: TC001 - as above
from pipeline.storage.documents import Count, Many, Part, Positive, Whole, schema_of


class Arm(Part):
    """Which variant it is that results carry the name of, and how many threads it was given."""

    variant: str
    threads: Count


class Size(Part):
    """What was measured at one combination of sizes: each backend's row, and every raw value behind it."""

    sizes: dict[str, Count]
    reference: str
    control: str = Field(description="The reference's second copy")
    margin: float
    confidence: float
    can_tell: bool = Field(description="Whether the reference differs from itself by no more than the margin")
    reason: str
    rows: Many[Row]
    measurements: Measurements = Field(alias="samples")


class OnGpu(Part):
    """What the launches tell of their GPU: medians, all that throttled it, and a call's time without copies by size."""

    device_ms: dict[str, float | None]
    changed_ms: dict[str, float] = Field(
        default={}, description="The first call after one of another size, by size; in no other figure"
    )
    sm_mhz: Whole | float | None
    max_sm_mhz: Whole | float | None
    memory_mhz: Whole | float | None
    temperature_c: Whole | float | None
    power_w: float | None
    throttled_by: Many[str]


class BackendFigures(Part):
    """How a backend starts and what it holds, by medians over launches; memory is over the idle worker's `baseline_bytes`."""

    name: str
    start_ms: float | None
    import_ms: float | None
    load_ms: float | None
    first_call_ms: dict[str, float | None] = Field(description="By size")
    baseline_bytes: Whole | float | None
    steady_bytes: Whole | float | None
    peak_bytes: Whole | float | None
    peak_bytes_by_launch: Many[Whole]
    file_bytes: Count | None
    gpu: OnGpu | None = None


class Roofline(Part):
    """What this machine reaches with a plain matrix product and a plain copy; empty where that was not measured."""

    flops_per_s: Positive | None = None
    bytes_per_s: Positive | None = None


class Graph(Part):
    """An ONNX graph's nodes by operator, and the operations of a call by size where they could be counted."""

    operators: dict[str, Count]
    weight_bytes: Count
    flops: dict[str, Count | None]
    uncounted: Many[str]


class Achieved(Part):
    """What a backend reaches, and which share of the roofline that is."""

    name: str
    flops_per_s: float | None
    bytes_per_s: float | None
    flops_per_s_share: float | None
    bytes_per_s_share: float | None


class Energy(Part):
    """The joules of a call by size and backend, or why there are none."""

    joules_per_call: dict[str, dict[str, float]]
    reason: str | None


class Rate(Part):
    """What one backend reached with one batch and number of callers: `per_second` items."""

    name: str
    sizes: dict[str, Count]
    callers: Count
    calls: Count
    seconds: float
    per_second: float


class Figures(Part):
    """What else than latency was measured."""

    backends: Many[BackendFigures]
    roofline: Roofline
    graph: Graph | None
    achieved: dict[str, Many[Achieved]] = Field(description="By size")
    energy: Energy
    throughput: Many[Rate]
    throughput_notes: Many[str]
    notes: Many[str]


class Benchmark(Part):
    """What was timed, on what machine; without sizes nothing was."""

    schema_version: Literal[1] = Field(description="Version of this schema")
    sizes: Many[Size]
    machine: Machine | None
    arms: dict[str, Arm] = Field(default={}, description="By the name that results carry")
    pressure: Contention | None = None
    budget_s: float = 0.0
    elapsed_s: float = 0.0
    figures: Figures | None = None


UNTIMED = Benchmark(schema_version=1, sizes=(), machine=None)


def schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of benchmark.json."""
    return schema_of(Benchmark, "benchmark", 1, "weighbridge benchmark report")
