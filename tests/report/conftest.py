"""A run's documents: parity as a real export wrote it, latencies as a simulated run of the real statistics gives them."""

import json
import random

import pytest

from pipeline.benchmark import figures, machine, rounds, timing
from pipeline.benchmark.samples import Plan
from pipeline.benchmark.statistics import analyse
from pipeline.report import document
from tests.benchmark.simulated import World


@pytest.fixture(scope="session")
def parity(built):
    return json.loads((built / "report" / "parity.json").read_bytes())


@pytest.fixture(scope="session")
def benchmark():
    """Two sizes, a backend that is three times faster, throughput, memory, a roofline: all that a report can show."""
    world, rng = World(), random.Random(2)
    arms = [
        world.arm(name, call_ms=lambda _, call_ms=call_ms: call_ms * rng.lognormvariate(0, 0.01))
        for name, call_ms in (("eager", 1.5), ("torchscript", 1.1), ("onnxruntime-cpu", 0.5))
    ]
    names = ["batch=1", "batch=32"]
    samples = rounds.run(
        arms, reference="eager", scenarios=names, plan=Plan(seconds=10), clock=world.clock, rng=random.Random(1),
        progress=lambda _: None,
    )  # fmt: skip
    memory = {"baseline_bytes": 30_000_000, "resident_bytes": 90_000_000, "peak_bytes": 120_000_000}
    for launch in samples["batch=1"].launches:
        for arm in launch.arms.values():
            arm.facts.update(start_ms=1400.0, load_ms=80.0, import_ms=1100.0, **memory)
    roofline = {"flops_per_s": 1e11, "bytes_per_s": 1e10}
    analysed = {name: analyse(each, margin=0.03) for name, each in samples.items()}
    before = machine.pressure()
    return document.benchmark(
        timing.Timings(
            arms={arm.name: {"variant": arm.name, "threads": 2} for arm in arms},
            sizes=tuple(timing.SizeTiming({"batch": int(name[6:])}, samples[name], analysed[name]) for name in names),
            machine=machine.describe().to_json(),
            pressure=machine.pressure_during(before, machine.pressure()),
            figures={
                "backends": [figures.backend(arm.name, samples, 5000) for arm in arms],
                "roofline": roofline,
                "graph": {"operators": {"Gemm": 2, "Relu": 1}, "weight_bytes": 1048, "flops": {}, "uncounted": []},
                "achieved": {
                    name: figures.achieved(each, 10**6, 10**4, roofline) for name, each in analysed.items()
                },
                "energy": {"joules_per_call": {}, "reason": "not measurable: no counter"},
                "throughput": [
                    {"name": arm.name, "sizes": {"batch": batch}, "callers": callers, "calls": 9, "seconds": 0.1,
                     "per_second": 900.0 * batch**0.5 * callers}
                    for arm in arms
                    for batch, callers in ((1, 1), (4, 1), (16, 1), (64, 1), (1, 2), (1, 4))
                ],
                "throughput_notes": ["eager, batch=64: no time left within benchmark.seconds"],
                "notes": [],
            },
            budget_s=10.0,
            elapsed_s=10.2,
        )
    )  # fmt: skip
