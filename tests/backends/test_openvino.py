"""OpenVINO computes in float32 on the CPU or not at all, takes what fits and nothing else, and keeps out of others' way."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends import openvino as backend
from pipeline.backends.backend import Source
from pipeline.backends.openvino import OPENVINO_CPU, CpuOptions
from pipeline.errors import InputError, UnavailableError
from pipeline.formats.openvino import library
from pipeline.interface import Dimension, InputSpec, Interface
from tests.weights import ir

pytestmark = pytest.mark.skipif(OPENVINO_CPU.probe() is not None, reason=str(OPENVINO_CPU.probe()))
INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 8),), ("y",))
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def opened(folder, text=None, **options):
    path = ir.written(folder, text or ir.text(), WEIGHTS.tobytes())
    return OPENVINO_CPU.open(Source(INTERFACE, path), CpuOptions(**options))


def test_the_facts_are_those_of_the_compiled_model(tmp_path):
    facts = opened(tmp_path, threads=1).facts
    assert facts["openvino"].startswith("20")
    assert {name: facts[name] for name in ("device", "threads", "streams", "precision", "snippets")} == {
        "device": "cpu",
        "threads": 1,
        "streams": 1,
        "precision": "f32",
        "snippets": True,
    }


def test_threads_are_the_runs_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert opened(tmp_path).facts["threads"] == 1


@pytest.mark.parametrize("snippets", [True, False])
def test_it_computes_in_float32_whatever_the_processor_would_rather_do(tmp_path, snippets):
    got = opened(tmp_path, snippets=snippets).run({"x": X})["y"]
    np.testing.assert_allclose(got, X.astype(np.float64) @ WEIGHTS.T.astype(np.float64), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("f16", "FP16")])
def test_another_precision_than_was_asked_for_is_no_result(tmp_path, monkeypatch, precision, capability):
    """As a plugin would have it that does not honour what it is asked for."""
    able = library.load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in able:
        pytest.skip(f"this processor computes in {', '.join(able)} only")
    monkeypatch.setattr(backend, "_SETTINGS", backend._SETTINGS | {"INFERENCE_PRECISION_HINT": precision})
    with pytest.raises(
        UnavailableError, match=f"asked OpenVINO for f32, and it would compute in {precision}"
    ) as caught:
        opened(tmp_path)
    assert "openvino-cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": X.astype(np.float64)}, "x is float64, the file takes float32"),
        ({"x": X.astype(np.int64)}, "x is int64"),
        ({"x": X[0]}, "x has shape [4], the file takes [?,4]"),
        ({"x": X[None]}, "x has shape [1, 5, 4]"),
        ({"x": np.zeros((5, 3), np.float32)}, "x has shape [5, 3]"),
        ({"z": X}, "the file takes x, given are z"),
        ({"x": X, "z": X}, "given are x, z"),
        ({}, "given are none"),
    ],
)
def test_what_openvino_would_cast_or_reshape_is_refused_before_it(tmp_path, inputs, words):
    session = opened(tmp_path)
    for call in (session.run, session.bind):
        with pytest.raises(InputError) as caught:
            call(inputs)
        assert words in caught.value.message
        assert caught.value.hint


def test_a_file_that_fixes_a_size_takes_no_other(tmp_path):
    session = opened(tmp_path, ir.text().replace('shape="?,4"', 'shape="2,4"').replace("<dim>-1</dim>", "<dim>2</dim>"))
    assert session.run({"x": X[:2]})["y"].shape == (2, 3)
    with pytest.raises(InputError, match=r"x has shape \[5, 4\], the file takes \[2,4\]"):
        session.run({"x": X})


def test_no_rows_are_a_size_as_well(tmp_path):
    assert opened(tmp_path).run({"x": X[:0]})["y"].shape == (0, 3)


def test_outputs_of_calls_at_once_are_each_its_own(tmp_path):
    session = opened(tmp_path)
    given = [np.full((1 + index, 4), index, np.float32) for index in range(6)]
    call = [session.bind({"x": each}) for each in given]

    def work(index):
        got = [session.run({"x": given[index]})["y"] for _ in range(50)] + [call[index]()[0] for _ in range(50)]
        return all(np.allclose(each, given[index] @ WEIGHTS.T) for each in got)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def _threads():
    return {int(each.name) for each in Path("/proc/self/task").iterdir()}


def test_no_thread_spins_between_calls_and_none_is_bound_to_a_core(tmp_path):
    allowed, others = os.sched_getaffinity(0), _threads()
    session = opened(tmp_path, threads=2)
    for _ in range(20):
        session.run({"x": X})
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    added = _threads() - others
    assert all(os.sched_getaffinity(each) == allowed for each in added)
    assert os.sched_getaffinity(0) == allowed


def test_nothing_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    opened(tmp_path / "model").run({"x": X})
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    assert sorted(each.name for each in (tmp_path / "model").iterdir()) == ["model.bin", "model.xml"]


def test_without_a_file_it_says_what_to_add():
    with pytest.raises(InputError, match="none was exported") as caught:
        OPENVINO_CPU.open(Source(INTERFACE), CpuOptions())
    assert "openvino" in caught.value.hint
