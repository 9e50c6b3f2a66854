"""What a run tells about each backend besides its latency: how it starts, what it holds, what it gets out of the machine."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from pipeline.benchmark.document import Achieved, BackendFigures, OnGpu, Roofline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pipeline.benchmark.measurements import Measurements, WorkerFacts
    from pipeline.benchmark.statistics import Analysis


def backend(name: str, measured: Mapping[str, Measurements], file_bytes: int | None) -> BackendFigures:
    """Return a backend's figures: medians over launches; of the memory, every launch's value too.

    `steady_bytes` and `peak_bytes` are over the worker's own memory before it imported anything for this backend.
    """
    arms = [launch.arms[name] for launch in next(iter(measured.values())).launches if name in launch.arms]
    facts = [arm.facts for arm in arms]
    peaks = [
        each.peak_bytes - each.baseline_bytes
        for each in facts
        if each.peak_bytes is not None and each.baseline_bytes is not None
    ]
    base, resident = _median(each.baseline_bytes for each in facts), _median(each.resident_bytes for each in facts)
    return BackendFigures(
        name=name,
        start_ms=_median(each.start_ms for each in facts),
        import_ms=_median(each.import_ms for each in facts),
        load_ms=_median(each.load_ms for each in facts),
        first_call_ms={scenario: _first_call_ms(name, each) for scenario, each in measured.items()},
        baseline_bytes=base,
        steady_bytes=None if base is None or resident is None else resident - base,
        peak_bytes=_median(peaks),
        peak_bytes_by_launch=tuple(peaks),
        file_bytes=file_bytes,
        gpu=_on_gpu(facts),
    )


def _on_gpu(facts: Sequence[WorkerFacts]) -> OnGpu | None:
    """Return what the launches tell of their GPU, None for a backend on none."""
    taken = [each.device_ms for each in facts if each.device_ms is not None]
    if not taken:
        return None
    states = [each.gpu for each in facts if each.gpu]
    return OnGpu(
        device_ms={scenario: _median(each[scenario] for each in taken) for scenario in taken[0]},
        changed_ms={
            scenario: found
            for scenario in taken[0]
            if (found := _median(each.changed_ms.get(scenario) for each in facts)) is not None
        },
        sm_mhz=_median(each.sm_mhz for each in states),
        max_sm_mhz=_median(each.max_sm_mhz for each in states),
        memory_mhz=_median(each.memory_mhz for each in states),
        temperature_c=_median(each.temperature_c for each in states),
        power_w=_median(each.power_w for each in states),
        throttled_by=tuple(sorted({reason for each in states for reason in each.throttled_by})),
    )


def achieved(
    analysis: Analysis,
    flops: int | None,
    moved_bytes: int | None,
    roofline: Roofline,
    elsewhere: Collection[str] = (),
) -> tuple[Achieved, ...]:
    """Return what each backend reaches of the processor's plain matrix product and copy, from its median time.

    Those that run `elsewhere`, on a GPU, have rates and no share: the roofline is not theirs.
    """
    found = []
    for row in analysis.rows:
        if row.median_ms is None or row.name == analysis.control:
            continue
        seconds = row.median_ms / 1e3
        flops_per_s = None if flops is None else flops / seconds
        bytes_per_s = None if moved_bytes is None else moved_bytes / seconds
        best = Roofline() if row.name in elsewhere else roofline
        found.append(
            Achieved(
                name=row.name,
                flops_per_s=flops_per_s,
                bytes_per_s=bytes_per_s,
                flops_per_s_share=_share(flops_per_s, best.flops_per_s),
                bytes_per_s_share=_share(bytes_per_s, best.bytes_per_s),
            )
        )
    return tuple(found)


def _share(rate: float | None, best: float | None) -> float | None:
    return None if rate is None or best is None else rate / best


def _first_call_ms(name: str, measured: Measurements) -> float | None:
    """Return the first window of the warm-up, which is the first call."""
    arms = [launch.arms[name] for launch in measured.launches if name in launch.arms]
    return _median(arm.warm_up.medians_ns[0] / 1e6 for arm in arms if arm.warm_up)


def _median(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return statistics.median(known) if known else None
