from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.benchmark import rounds
from pipeline.benchmark.measurements import Measurements, Plan, thin
from pipeline.errors import InputError
from tests.benchmark.simulated import World

ADAPTER = TypeAdapter(Measurements)


@pytest.fixture
def measured() -> Measurements:
    world = World()
    arms = [world.arm("eager"), world.arm("onnx", call_ms=0.1), world.arm("bad", lives_for=0)]
    found = rounds.run(
        arms,
        reference="eager",
        scenarios=["one"],
        plan=Plan(seconds=8),
        clock=world.clock,
        rng=random.Random(1),
        progress=lambda _: None,
    )
    return found["one"]


def as_json(measured: Measurements) -> dict[str, Any]:
    return json.loads(ADAPTER.dump_json(measured))


def test_measurements_survive_json(measured: Measurements) -> None:
    assert measured.failures
    assert ADAPTER.validate_json(ADAPTER.dump_json(measured)) == measured


def test_json_holds_the_raw_durations(measured: Measurements) -> None:
    block = as_json(measured)["launches"][0]["arms"]["onnx"]["blocks"][0]
    assert block == {"round": 0, "calls": 600, "total_ns": 60_000_000, "durations_ns": [100_000] * 200}


def test_up_to_200_durations_are_kept_whole() -> None:
    assert thin(range(1, 201)) == tuple(range(1, 201))


@pytest.mark.parametrize("count", [201, 399, 400, 12_345])
def test_of_more_durations_200_evenly_spaced_ones_are_kept(count: int) -> None:
    kept = thin(range(count))
    steps = {later - earlier for earlier, later in pairwise(kept)}
    assert len(kept) == 200
    assert kept[0] == 0
    assert steps <= {count // 200, count // 200 + 1}


@pytest.mark.parametrize("name", ["seconds", "launches", "min_rounds", "block_ms", "tolerance", "concurrent_starts"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_plan_of_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"benchmark {name} is {value}"):
        Plan(**({"seconds": 20} | {name: value}))


def test_fewer_launches_than_the_minimum_are_refused() -> None:
    with pytest.raises(InputError, match="launches is 2, below the minimum of 3"):
        Plan(seconds=20, launches=2)
