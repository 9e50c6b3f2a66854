"""Which of the files that a benchmark has timed is the fastest, as far as that benchmark alone can tell."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from pipeline.benchmark import race
from pipeline.benchmark.race import SAME, Heat
from pipeline.interface import in_words

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.benchmark.document import Benchmark, Size
    from pipeline.benchmark.measurements import Launch


def in_a_line(benchmark: Benchmark, unjudged: Collection[str] = ()) -> str | None:
    """Say which file is the fastest of those timed, or which cannot be told apart, by size; None where there are not two.

    `unjudged` are those of which nothing shows that they are good enough.
    """
    files = (
        [each.name for each in benchmark.figures.backends if each.file_bytes is not None] if benchmark.figures else []
    )
    timed = [each for each in files if each not in unjudged]
    found = {in_words(size.sizes): said for size in benchmark.sizes if (said := _of_size(size, timed))}
    if not found:
        return None
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"at {sizes} {said}" for sizes, said in found.items())


def _of_size(size: Size, timed: list[str]) -> str | None:
    """Compare all pairs with the one that leads: each at 5 % ÷ the number of others, for the one that is best."""
    measured = size.measurements
    heats = [_heat(launch, measured.reference, measured.control) for launch in measured.launches]
    names = [name for name in timed if heats and all(name in heat.values for heat in heats)]
    if len(names) < 2:
        return None
    leader, *others = race.ranked(heats, names)
    beaten = race.beaten(heats, names, leader, SAME / len(others), size.margin)
    tied = [name for name in others if name not in beaten]
    if not tied:
        return f"the fastest of those timed: {leader}"
    return f"cannot be told apart by this benchmark: {', '.join([leader, *tied])}"


def _heat(launch: Launch, reference: str, control: str) -> Heat:
    values = {
        name: {block.round: math.log(statistics.median(block.durations_ns)) for block in arm.blocks}
        for name, arm in launch.arms.items()
        if arm.blocks
    }
    second = values.pop(control, {})
    return Heat(values, reference, second, launch.fixed_s + launch.measure_s)
