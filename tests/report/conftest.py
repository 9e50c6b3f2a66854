"""A run's documents: parity as a real export wrote it, latencies as a simulated run of the real statistics gives them."""

import json
import random
from dataclasses import replace

import pytest
import torch

from pipeline.benchmark import figures, machine, rounds, timing
from pipeline.benchmark.document import Benchmark, Energy, Figures, Graph, Rate, Roofline
from pipeline.benchmark.measurements import Plan
from pipeline.benchmark.statistics import analyse
from pipeline.errors import GateError
from pipeline.parity.document import Parity
from pipeline.report.document import Documents
from pipeline.run.export import export
from pipeline.run.plan import Settings
from tests.benchmark.simulated import World, telling
from tests.formats import networks


@pytest.fixture(scope="session")
def parity(built):
    return Parity.read(built / "report" / "parity.json")


@pytest.fixture(scope="session")
def benchmark():
    """Two sizes, a backend that is three times faster, throughput, memory, a roofline: all that a report can show."""
    world, rng = World(), random.Random(2)
    arms = [
        world.arm(name, call_ms=lambda _, call_ms=call_ms: call_ms * rng.lognormvariate(0, 0.01))
        for name, call_ms in (("eager", 1.5), ("torchscript", 1.1), ("onnxruntime-cpu", 0.5))
    ]
    names = ["batch=1", "batch=32"]
    measured = rounds.run(
        arms, reference="eager", scenarios=names, plan=Plan(seconds=10), clock=world.clock, rng=random.Random(1),
        progress=lambda _: None,
    )  # fmt: skip
    memory = {"baseline_bytes": 30_000_000, "resident_bytes": 90_000_000, "peak_bytes": 120_000_000}
    told = {"start_ms": 1400.0, "load_ms": 80.0, "import_ms": 1100.0, **memory}
    measured = {
        name: replace(each, launches=tuple(telling(launch, **told) for launch in each.launches))
        for name, each in measured.items()
    }
    roofline = Roofline(flops_per_s=1e11, bytes_per_s=1e10)
    analysed = {name: analyse(each, margin=0.03) for name, each in measured.items()}
    before = machine.pressure()
    return Benchmark(
        schema_version=1,
        arms={arm.name: {"variant": arm.name, "threads": 2} for arm in arms},
        sizes=tuple(timing.size({"batch": int(name[6:])}, measured[name], analysed[name]) for name in names),
        machine=machine.here(),
        pressure=machine.pressure_during(before, machine.pressure()),
        figures=Figures(
            backends=tuple(figures.backend(arm.name, measured, 5000) for arm in arms),
            roofline=roofline,
            graph=Graph(operators={"Gemm": 2, "Relu": 1}, weight_bytes=1048, flops={}, uncounted=()),
            achieved={name: figures.achieved(each, 10**6, 10**4, roofline) for name, each in analysed.items()},
            energy=Energy(joules_per_call={}, reason="not measurable: no counter"),
            throughput=tuple(
                Rate(name=arm.name, sizes={"batch": batch}, callers=callers, calls=9, seconds=0.1,
                     per_second=900.0 * batch**0.5 * callers)
                for arm in arms
                for batch, callers in ((1, 1), (4, 1), (16, 1), (64, 1), (1, 2), (1, 4))
            ),
            throughput_notes=("eager, batch=64: no time left within benchmark.seconds",),
            notes=(),
        ),
        budget_s=10.0,
        elapsed_s=10.2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def documents(parity, benchmark):
    return Documents(parity, benchmark)


@pytest.fixture
def edited(documents):
    """The documents after a change to their JSON values."""

    def edit(change):
        found = json.loads(json.dumps(documents.to_json()))
        change(found)
        return Documents(Parity.from_json(found["parity"]), Benchmark.from_json(found["benchmark"]))

    return edit


UNFAITHFUL = """
name: unfaithful
model: {architecture: "tests.formats.networks:Unfaithful", weights: unfaithful.pth}
inputs:
  x: {dtype: float32, shape: [batch, 4]}
dimensions: {batch: {min: 1, max: 16}}
outputs: [y]
exports: [{format: torchscript, method: trace}, onnx]
backends: [torchscript, onnxruntime-cpu]
benchmark: {reference: torchscript}
"""


@pytest.fixture(scope="session")
def failed(once):
    """The report of a real export that parity stopped: both of its files compute something else than the network."""
    return once("unfaithful", _fail) / "unfaithful" / "failed" / "report"


def _fail(folder):
    torch.save(networks.made(networks.Unfaithful()).state_dict(), folder / "unfaithful.pth")
    (folder / "unfaithful.yaml").write_text(UNFAITHFUL)
    with pytest.raises(GateError):
        export(folder / "unfaithful.yaml", Settings(out=folder, trust=("tests.formats",)))
