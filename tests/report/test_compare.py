"""A release against an older one: only what is proven counts, in either direction."""

import copy
import dataclasses
import json
import math

import pytest

from pipeline.benchmark import machine
from pipeline.benchmark.document import Benchmark
from pipeline.errors import InputError
from pipeline.parity.document import Parity
from pipeline.report.compare import Recorded, compare
from pipeline.report.document import Documents

HERE = dataclasses.asdict(machine.here())


UNKNOWN = dict.fromkeys(("ratio", "interval", "p_value", "p50", "p90", "p95", "p99"))
NOTHING = dict.fromkeys(
    ("start_ms", "import_ms", "load_ms", "baseline_bytes", "steady_bytes", "peak_bytes", "file_bytes")
)
RAW = {
    "reference": "eager", "control": "eager (A/A)", "arms": [], "plan": {"seconds": 1.0}, "launches": [], "elapsed_s": 1.0,
}  # fmt: skip


def row(name, median_ms, spread=0.01, launches=4):
    interval = (median_ms * math.exp(-spread), median_ms * math.exp(spread))
    return {
        **UNKNOWN, "name": name, "verdict": "undecided", "reason": "", "median_ms": median_ms, "median_interval_ms": interval,
        "calls": 1, "rounds": 1, "launches": launches, "settled": True,
    }  # fmt: skip


def worst(factor):
    return {"case": "odd", "output": "y", "passed": True, "factor": factor, "limit": 16.0}


def recorded(stated):
    """A release that states this, and whatever else a report has."""
    backends = [
        {"backend": "eager", "required": True, "status": "pass", "reason": None, "findings": [], "facts": {}, **each}
        for each in stated["parity"]["backends"]
    ]
    parity = {
        "schema_version": 1,
        "oracle": {"dtype": "float64", "fallback": None},
        "rules": {},
        "cases": [],
        "exports": stated.get("exports", []),
    }
    figures = {
        "roofline": {}, "graph": None, "achieved": {}, "energy": {"joules_per_call": {}, "reason": None}, "throughput": [],
        "throughput_notes": [], "notes": [],
    }  # fmt: skip
    timed = copy.deepcopy(stated["benchmark"]) | {"schema_version": 1}
    for size in timed["sizes"]:
        size |= {"margin": 0.03, "confidence": 0.95, "samples": RAW}
    if "figures" in timed:
        timed["figures"] |= figures
    documents = Documents(Parity.from_json(parity | {"backends": backends, "notes": []}), Benchmark.from_json(timed))
    return Recorded(documents, stated["sizes"], stated["reference"])


@pytest.fixture
def base():
    return {
        "sizes": {"onnx": 1000},
        "reference": ({"sha256": "a"}, {"torch": "2"}),
        "parity": {"backends": [{"name": "onnxruntime-cpu", "worst": worst(1.5)}, {"name": "x", "worst": None}]},
        "benchmark": {
            "machine": HERE,
            "figures": {"backends": [{**NOTHING, "name": "onnxruntime-cpu", "first_call_ms": {}, "peak_bytes_by_launch": [1000, 1010, 1005]}]},
            "sizes": [
                {
                    "sizes": {"batch": 1}, "reference": "eager", "control": "eager (A/A)", "can_tell": True, "reason": "",
                    "rows": [row("eager", 2.0), row("eager (A/A)", 2.0), row("onnxruntime-cpu", 1.0)],
                }
            ],
        },
    }  # fmt: skip


@pytest.fixture
def changed(base):
    return copy.deepcopy(base)


def held(base, candidate, **more):
    return compare(recorded(base), recorded(candidate), **({"margin": 0.05, "force": False} | more))


def outcomes(found, outcome):
    return [(each.what.split()[0], each.where) for each in found.changes if each.outcome == outcome]


def test_a_release_is_the_same_as_itself(base, changed):
    found = held(base, changed)
    assert {each.outcome for each in found.changes} == {"same"}
    assert found.regressions == []


@pytest.mark.parametrize(("factor", "said"), [(1.2, "regression"), (0.8, "improvement"), (1.04, "same")])
def test_a_latency_that_changed_beyond_the_margin_is_called_so(base, changed, factor, said):
    changed["benchmark"]["sizes"][0]["rows"][2] = row("onnxruntime-cpu", factor, spread=0.004)
    assert ("latency", "onnxruntime-cpu, batch=1") in outcomes(held(base, changed), said)


def test_a_latency_whose_interval_reaches_into_the_margin_is_undecided(base, changed):
    changed["benchmark"]["sizes"][0]["rows"][2] = row("onnxruntime-cpu", 1.2, spread=0.3)
    found = held(base, changed)
    assert found.regressions == []
    assert outcomes(found, "undecided") == [("latency", "onnxruntime-cpu, batch=1")]


def test_latencies_are_not_compared_where_the_same_program_took_longer_too(base, changed):
    changed["benchmark"]["sizes"][0]["rows"] = [row("eager", 2.4), row("eager (A/A)", 2.4), row("onnxruntime-cpu", 1.2)]
    found = held(base, changed)
    assert outcomes(found, "regression") == []
    assert all("the machine has changed" in each.reason for each in found.undecided)


def test_another_networks_reference_may_take_longer(base, changed):
    changed["reference"] = ({"sha256": "b"}, {"torch": "2"})
    changed["benchmark"]["sizes"][0]["rows"][0] = row("eager", 2.4)
    assert outcomes(held(base, changed), "regression") == [("latency", "eager, batch=1")]


def test_a_run_that_could_not_tell_proves_nothing(base, changed):
    changed["benchmark"]["sizes"][0] |= {"can_tell": False, "reason": "copies differ"}
    changed["benchmark"]["sizes"][0]["rows"][2] = row("onnxruntime-cpu", 2.0)
    found = held(base, changed)
    assert found.regressions == []
    assert "copies differ" in found.undecided[0].reason


def test_a_larger_file_is_a_regression(base, changed):
    changed["sizes"]["onnx"] = 1100
    assert outcomes(held(base, changed), "regression") == [("size", "onnx")]
    assert outcomes(held(base, changed, margin=0.2), "regression") == []


def test_memory_is_a_regression_only_if_no_launch_overlaps(base, changed):
    peaks = changed["benchmark"]["figures"]["backends"][0]
    peaks["peak_bytes_by_launch"] = [1200, 1210, 1220]
    assert outcomes(held(base, changed), "regression") == [("peak", "onnxruntime-cpu")]
    peaks["peak_bytes_by_launch"] = [1000, 1210, 1220]
    assert outcomes(held(base, changed), "undecided") == [("peak", "onnxruntime-cpu")]


def test_a_larger_error_is_a_regression_but_not_within_the_noise(base, changed):
    changed["parity"]["backends"][0]["worst"]["factor"] = 3.0
    assert outcomes(held(base, changed), "regression") == [("parity", "onnxruntime-cpu")]
    base["parity"]["backends"][0]["worst"]["factor"] = 0.3
    changed["parity"]["backends"][0]["worst"]["factor"] = 0.9
    assert outcomes(held(base, changed), "regression") == []
    changed["parity"]["backends"][0]["worst"]["factor"] = "inf"
    assert outcomes(held(base, changed), "regression") == [("parity", "onnxruntime-cpu")]


def test_releases_from_different_machines_are_refused_without_force(base, changed):
    changed["benchmark"]["machine"] = HERE | {"cpu_model": "another"}
    with pytest.raises(InputError, match=r"different machines: CPU: .* and another") as caught:
        held(base, changed)
    assert "--force" in (caught.value.hint or "")
    assert any("different machines" in note for note in held(base, changed, force=True).notes)


def test_a_release_that_was_not_timed_is_compared_in_what_it_has(base, changed):
    changed["benchmark"] = {"sizes": [], "machine": None}
    found = held(base, changed)
    assert {each.what.split()[0] for each in found.changes} == {"size", "parity"}
    assert any("candidate was not timed" in note for note in found.notes)


@pytest.mark.parametrize(("was", "now"), [(5e-324, 1e308), (1e308, 5e-324), (1.0, 5e-324)])
def test_latencies_that_no_machine_has_are_compared_without_an_overflow(base, changed, was, now):
    base["benchmark"]["sizes"][0]["rows"] = [row("onnxruntime-cpu", was, spread=0.0)]
    changed["benchmark"]["sizes"][0]["rows"] = [row("onnxruntime-cpu", now, spread=0.0)]
    changed["benchmark"]["sizes"][0]["rows"][0]["median_interval_ms"] = [5e-324, 1e308]
    found = held(base, changed).to_json()
    assert "latency [ms]" in {each["what"] for each in found["changes"]}
    json.dumps(found, allow_nan=False)


def test_of_many_latencies_chance_alone_makes_no_regression(base, changed):
    """A change whose own p-value is 0.013 counts alone, and not as one of ten."""
    one = row("onnxruntime-cpu", 1.0, spread=0.03)
    other = row("onnxruntime-cpu", 1.10, spread=0.03)
    alone = [copy.deepcopy(base), copy.deepcopy(changed)]
    for document, timed in zip(alone, (one, other), strict=True):
        document["benchmark"]["sizes"][0]["rows"] = [timed]
    assert outcomes(held(*alone), "regression") == [("latency", "onnxruntime-cpu, batch=1")]
    for document, timed in zip(alone, (one, other), strict=True):
        wide = [row(f"v{index}", 1.0, spread=0.5) for index in range(9)]
        document["benchmark"]["sizes"][0]["rows"] = [timed, *wide]
    assert outcomes(held(*alone), "regression") == []


def reduced(share=0.96, precision="int8", sha256="0" * 64, network=None):
    claim = {
        "criterion": "metric" if network else "sqnr_db", "output": None if network else "y", "verdict": "pass", "value": share,
        "lower": share - 0.02, "upper": 0.99, "limit": 0.9, "samples": 400, "network": network,
    }  # fmt: skip
    accuracy = {
        "verdict": "pass",
        "variant": "ort-int8",
        "required": True,
        "file": "e.npz",
        "sha256": sha256,
        "confidence": 0.95,
    }
    return {
        "name": "onnx-int8", "format": "onnx", "made_from": "onnx", "status": "exported", "size_bytes": 400,
        "facts": {"precision": precision}, "audit": None, "notes": [], "accuracy": accuracy | {"claims": [claim]},
    }  # fmt: skip


def test_what_only_one_of_two_releases_has_is_said_with_its_size(base, changed):
    changed["sizes"]["onnx-int8"] = 400
    assert "only the candidate has onnx-int8, 400 bytes" in held(base, changed).notes
    assert "only the base has onnx-int8, 400 bytes" in held(changed, base).notes


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({}, {}, "same"),
        ({}, {"share": 0.90}, "regression"),
        ({"share": 0.90}, {}, "improvement"),
        ({"share": 0.0, "network": 0.8}, {"share": -0.1, "network": 0.8}, "regression"),
    ],
)
def test_an_accuracy_that_fell_is_a_regression(base, was, now, said):
    (found,) = [
        each
        for each in held(base | {"exports": [reduced(**was)]}, base | {"exports": [reduced(**now)]}).changes
        if each.what.startswith("accuracy")
    ]
    assert found.outcome == said
    assert found.where.startswith("onnx-int8")
    assert found.candidate == (0.8 if "network" in now else 0) + now.get("share", 0.96)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"precision": "float16"}, "onnx-int8 is in int8 in the base, and in float16 in the candidate"),
        ({"sha256": "1" * 64}, "judged on other samples"),
    ],
)
def test_figures_of_two_different_things_are_told_apart(base, now, said):
    found = held(base | {"exports": [reduced()]}, base | {"exports": [reduced(**now)]})
    assert any(said in each for each in found.notes)
