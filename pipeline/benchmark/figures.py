"""What a run tells about each backend besides its latency: how it starts, what it holds, what it gets out of the machine."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.formats.table import formats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.benchmark.samples import ArmSamples, Samples
    from pipeline.benchmark.statistics import Analysis

_STARTING = ("start_ms", "import_ms", "load_ms")
_MEMORY = ("baseline_bytes", "resident_bytes", "peak_bytes")


def backend(name: str, samples: Mapping[str, Samples], file_bytes: int | None) -> dict[str, Any]:
    """Return a backend's figures: medians over launches; of the memory, every launch's value too.

    `steady_bytes` and `peak_bytes` are over the worker's own memory before it imported anything for this backend.
    """
    arms = [launch.arms[name] for launch in next(iter(samples.values())).launches if name in launch.arms]
    facts = [arm.facts for arm in arms if arm.facts]
    peaks = [each["peak_bytes"] - each["baseline_bytes"] for each in facts if "peak_bytes" in each]
    middle = {key: _median([each[key] for each in facts if key in each]) for key in (*_STARTING, *_MEMORY)}
    base = middle["baseline_bytes"]
    return {
        "name": name,
        **{key: middle[key] for key in _STARTING},
        "first_call_ms": {scenario: _first_call_ms(name, each) for scenario, each in samples.items()},
        "baseline_bytes": base,
        "steady_bytes": None if base is None or middle["resident_bytes"] is None else middle["resident_bytes"] - base,
        "peak_bytes": _median(peaks),
        "peak_bytes_by_launch": peaks,
        "file_bytes": file_bytes,
        "gpu": _on_gpu(facts),
    }


def _on_gpu(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the launches tell of their GPU, None for a backend on none: medians, and all that throttled it."""
    taken = [each for each in facts if "device_ms" in each]
    if not taken:
        return None
    states = [each["gpu"] for each in taken if each["gpu"]]
    middle = {
        key: _median([state[key] for state in states if state[key] is not None])
        for key in ("sm_mhz", "max_sm_mhz", "memory_mhz", "temperature_c", "power_w")
    }
    return {
        "device_ms": {
            scenario: _median(
                [each["device_ms"][scenario] for each in taken if each["device_ms"][scenario] is not None]
            )
            for scenario in taken[0]["device_ms"]
        },
        **middle,
        "throttled_by": sorted({reason for state in states for reason in state["throttled_by"]}),
    }


def achieved(
    analysis: Analysis, flops: int | None, moved_bytes: int | None, roofline: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return what each backend reaches of the machine's plain matrix product and copy, from its median time."""
    found = []
    for row in analysis.rows:
        if row.median_ms is None or row.name == analysis.control:
            continue
        seconds = row.median_ms / 1e3
        rates = {
            "flops_per_s": None if flops is None else flops / seconds,
            "bytes_per_s": None if moved_bytes is None else moved_bytes / seconds,
        }
        shares = {
            f"{key}_share": None if rate is None or not roofline.get(key) else rate / roofline[key]
            for key, rate in rates.items()
        }
        found.append({"name": row.name, **rates, **shares})
    return found


def _first_call_ms(name: str, samples: Samples) -> float | None:
    arms = [launch.arms[name] for launch in samples.launches if name in launch.arms]
    return _median([_first_ns(arm) / 1e6 for arm in arms if arm.warm_up])


def _first_ns(arm: ArmSamples) -> float:
    assert arm.warm_up is not None  # noqa: S101 - the caller looked
    return arm.warm_up.medians_ns[0]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def count_operators(format: str, file: str, inputs: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, Any] | None:  # noqa: A002 - the name the config uses
    """Return what a file's format tells of its operators (see `pipeline.formats.format`), None if it tells nothing."""
    count = formats()[format].count_operators
    return dict(count(Path(file), inputs)) if count else None
