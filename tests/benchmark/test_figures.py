"""Energy, roofline, throughput and what is derived from them."""

import random
from dataclasses import replace

import pytest

from pipeline.benchmark import energy, figures, roofline, rounds, throughput
from pipeline.benchmark.document import Roofline
from pipeline.benchmark.gpu import State
from pipeline.benchmark.measurements import Plan
from pipeline.benchmark.statistics import analyse
from pipeline.errors import WorkerError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.worker.session import Throughput
from tests.benchmark.simulated import World, telling

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 3)),), (Dimension("batch", 1, 64),), ("y",))


def rapl(root, package, used_uj, most_uj=1000):
    folder = root / f"sys/class/powercap/intel-rapl:{package}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{used_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")


def test_energy_is_summed_over_packages_and_survives_a_counter_that_wraps(tmp_path):
    rapl(tmp_path, 0, 900)
    rapl(tmp_path, 1, 100)
    rapl(tmp_path, "0:0", 5)  # a part of package 0, counted there already
    meter = energy.cpu_meter(tmp_path)
    assert meter is not None
    rapl(tmp_path, 0, 50)
    rapl(tmp_path, 1, 300)
    assert meter() == pytest.approx((151 + 200) / 1e6)


def test_without_a_counter_there_is_no_meter(tmp_path):
    assert energy.cpu_meter(tmp_path) is None


def test_the_roofline_measures_both_roofs(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = roofline.measure(0.02)
    assert set(found) == {"flops_per_s", "bytes_per_s"}
    assert min(found.values()) > 1e6


def test_first_call_is_the_first_of_the_warm_up_and_memory_is_over_the_baseline():
    world = World()
    arms = [world.arm("eager"), world.arm("onnx", call_ms=lambda index: 50.0 if index == 0 else 1.0)]
    (one,) = rounds.run(
        arms, reference="eager", scenarios=["one"], plan=Plan(seconds=20), clock=world.clock, rng=random.Random(1),
        progress=lambda _: None,
    ).values()  # fmt: skip
    told = {"baseline_bytes": 100, "resident_bytes": 250, "peak_bytes": 400}
    one = replace(one, launches=tuple(telling(launch, "onnx", **told) for launch in one.launches))
    found = figures.backend("onnx", {"one": one}, 7)
    assert found.first_call_ms == {"one": 50.0}
    assert found.import_ms == 12.5
    assert (found.steady_bytes, found.peak_bytes, found.file_bytes) == (150, 300, 7)
    assert found.peak_bytes_by_launch == (300,) * 6
    reached = figures.achieved(analyse(one, margin=0.03), 10**6, None, Roofline(flops_per_s=4e9))
    (row,) = (each for each in reached if each.name == "onnx")
    assert row.flops_per_s == pytest.approx(1e9)  # 1e6 operations in 1 ms
    assert row.flops_per_s_share == pytest.approx(0.25)
    assert row.bytes_per_s is None
    on_gpu = figures.achieved(analyse(one, margin=0.03), 10**6, None, Roofline(flops_per_s=4e9), {"onnx"})
    (row,) = (each for each in on_gpu if each.name == "onnx")
    assert (row.flops_per_s, row.flops_per_s_share) == (pytest.approx(1e9), None), "the processor's roof is not a GPU's"


def test_what_a_gpu_told_is_the_median_of_the_launches_and_whatever_throttled_it():
    world = World()
    (one,) = rounds.run(
        [world.arm("eager"), world.arm("cuda")], reference="eager", scenarios=["one"], plan=Plan(seconds=20),
        clock=world.clock, rng=random.Random(1), progress=lambda _: None,
    ).values()  # fmt: skip
    launches = []
    for index, launch in enumerate(one.launches):
        state = State(1000 + index, 1980, 2600, 60, None, ("power cap",) if index == 2 else ())
        told = {"device_ms": {"one": 0.1 * (index + 1)}, "gpu": state if index else None}
        launches.append(telling(launch, "cuda", **told))
    measured = {"one": replace(one, launches=tuple(launches))}
    found = figures.backend("cuda", measured, None).gpu
    assert found.device_ms == {"one": pytest.approx(0.35)}
    assert (found.sm_mhz, found.max_sm_mhz, found.power_w) == (1003, 1980, None)
    assert found.throttled_by == ("power cap",)
    assert figures.backend("eager", measured, None).gpu is None


class Machine:
    """A worker that gets through `per_second` items a second, by a clock of its own."""

    def __init__(self, per_second, breaks_at=None):
        self.now, self.per_second, self.breaks_at, self.items = 0.0, per_second, breaks_at, 0
        self.seen = []

    def clock(self):
        return self.now

    def bind(self, _scenario, inputs):
        self.items = len(inputs["x"])

    def together(self, _scenario, callers, seconds):
        if self.items == self.breaks_at:
            raise WorkerError("no memory")
        self.seen.append((self.items, callers))
        each_s = self.items / self.per_second
        rounds_ = max(1, round(seconds / (each_s * callers)))
        self.now += rounds_ * callers * each_s
        return Throughput(calls=rounds_ * callers, seconds=rounds_ * callers * each_s)


def test_throughput_sweeps_the_batch_and_then_the_callers():
    machine = Machine(1e5)
    wanted = throughput.points(INTERFACE, {"batch": 1}, threads=2, seed=0)
    rates, notes = throughput.measure({"onnx": machine}, wanted, 4.0, machine.clock)
    assert [(each.sizes["batch"], each.callers) for each in rates] == [(1, 1), (4, 1), (16, 1), (64, 1), (1, 2), (1, 4)]
    assert notes == []
    assert [each.per_second for each in rates] == pytest.approx([1e5] * 6)


def test_throughput_keeps_its_time_and_says_what_it_left_out():
    machine = Machine(20.0)
    wanted = throughput.points(INTERFACE, {"batch": 1}, threads=2, seed=0)
    rates, notes = throughput.measure({"onnx": machine}, wanted, 3.0, machine.clock)
    assert machine.now <= 3.0 + 1e-6
    assert rates
    assert any("batch=64: no time left" in note for note in notes)


def test_a_point_that_fails_is_noted_and_the_others_go_on():
    machine = Machine(1e5, breaks_at=16)
    wanted = throughput.points(INTERFACE, {"batch": 1}, threads=2, seed=0)
    rates, notes = throughput.measure({"onnx": machine}, wanted, 4.0, machine.clock)
    assert notes == ["onnx, batch=16: no memory"]
    assert len(rates) == 5
