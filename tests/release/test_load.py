"""A release is a function of named arrays that says exactly what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import pipeline
from pipeline.backends.table import backends
from pipeline.errors import DigestError, InputError, UnavailableError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.release import bundle, load
from pipeline.release.load import check_inputs, load_release

X = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def model(pristine):
    return load_release(pristine)


def test_a_release_computes_what_its_model_computes(model, pristine):
    session = onnxruntime.InferenceSession(str(pristine / "model.onnx"), providers=["CPUExecutionProvider"])
    logits, best = session.run(None, {"x": X})
    outputs = model(x=X)
    assert list(outputs) == ["logits", "best"]
    np.testing.assert_array_equal(outputs["logits"], logits)
    np.testing.assert_array_equal(outputs["best"], best)
    assert (model.name, model.version, model.backend) == ("tiny", pristine.name, "onnxruntime-cpu")


@pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is:DeprecationWarning")
def test_torchscript_gives_the_same_on_request_but_never_unchecked(model, pristine):
    outputs = load_release(pristine, backend="torchscript")(x=X)
    np.testing.assert_allclose(outputs["logits"], model(x=X)["logits"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(outputs["best"], model(x=X)["best"])
    with pytest.raises(InputError, match="only opened once its digest is checked"):
        load_release(pristine, backend="torchscript", verify=False)


def test_a_proven_variant_brings_its_options(changed, content, tmp_path):
    variant = {
        "backend": "onnxruntime-cpu",
        "format": "onnx",
        "options": {"graph_optimization_level": "disable"},
        "verdict": "pass",
    }
    release = bundle.write(changed(manifest={**content.manifest, "backends": {"plain": variant}}), tmp_path)
    assert load_release(release, backend="plain").backend == "onnxruntime-cpu"
    wrong = {**variant, "options": {"graph_optimization_level": "no such"}}
    release = bundle.write(changed(manifest={**content.manifest, "backends": {"plain": wrong}}), tmp_path)
    with pytest.raises(InputError, match="graph_optimization_level"):
        load_release(release, backend="plain")


def _timed(**medians):
    """A benchmark report with these medians, in ms, at one size."""
    rows = [{"name": name, "median_ms": median} for name, median in medians.items()]
    return {"benchmark.json": json.dumps({"sizes": [{"sizes": {}, "rows": rows}]}).encode()}


def test_the_fastest_proven_backend_runs_it_when_none_is_named(changed, tmp_path):
    slow = {"onnxruntime-cpu": 3.0, "torchscript": 2.0, "eager": 1.0}  # eager has no file in a release
    assert load_release(bundle.write(changed(report=_timed(**slow)), tmp_path / "a")).backend == "torchscript"
    fast = {"onnxruntime-cpu": 1.0, "torchscript": 2.0}
    release = bundle.write(changed(report=_timed(**fast)), tmp_path / "b")
    assert load_release(release).backend == "onnxruntime-cpu"
    assert load_release(release, backend="torchscript").backend == "torchscript"


def test_a_backend_timed_with_several_threads_counts_as_at_its_best(changed, tmp_path):
    medians = {"torchscript, 1 thread": 5.0, "torchscript, 2 threads": 1.0, "onnxruntime-cpu": 2.0}
    report = json.loads(_timed(**medians)["benchmark.json"])
    report["arms"] = {f"torchscript, {count}": {"variant": "torchscript"} for count in ("1 thread", "2 threads")}
    release = bundle.write(changed(report={"benchmark.json": json.dumps(report).encode()}), tmp_path)
    assert load_release(release).backend == "torchscript"


@pytest.mark.parametrize(
    "report", [{}, {"benchmark.json": b"{}"}, {"benchmark.json": b"\xff"}], ids=["none", "empty", "bad"]
)
def test_without_timings_onnxruntime_runs_it(changed, tmp_path, report):
    assert load_release(bundle.write(changed(report=report), tmp_path)).backend == "onnxruntime-cpu"


def test_unchecked_files_are_not_opened_by_torchscript_even_where_it_is_fastest(changed, tmp_path):
    release = bundle.write(changed(report=_timed(**{"torchscript": 1.0, "onnxruntime-cpu": 2.0})), tmp_path)
    assert load_release(release, verify=False).backend == "onnxruntime-cpu"


def test_a_device_is_never_replaced_by_another(pristine):
    with pytest.raises(InputError, match="no device 'tpu'"):
        load_release(pristine, device="tpu")
    if backends()["onnxruntime-cuda"].probe() is None:
        pytest.skip("a GPU is here")
    with pytest.raises(UnavailableError, match="no backend can run") as caught:
        load_release(pristine, device="cuda")
    assert "onnxruntime-cuda: " in caught.value.message
    assert "onnxruntime-cpu:" not in caught.value.message


def test_the_package_offers_it_and_imports_no_torch_for_onnx(pristine):
    program = (
        "import sys, numpy, pipeline\n"
        "assert 'numpy' in sys.modules and 'onnxruntime' not in sys.modules\n"
        f"model = pipeline.load_release({str(pristine)!r})\n"
        "print(model(x=numpy.zeros((1, 4), numpy.float32))['logits'].shape, 'torch' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 3) False False\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pipeline.nothing


@pytest.mark.parametrize(
    ("inputs", "message", "hint"),
    [
        ({}, "missing x", "takes x"),
        ({"x": X, "y": X}, "unknown y", "takes x"),
        ({"y": X}, "missing x; unknown y", "takes x"),
        ({"x": None}, "missing x", "takes x"),
        ({"x": X.astype(np.float64)}, "x is float64, expected float32", "x.astype(np.float32)"),
        ({"x": X.astype(">f4")}, "x is >f4, expected float32", "x.astype(np.float32)"),
        ({"x": X.tolist()}, "x is a list, expected a numpy array of float32", "np.asarray(x, dtype=np.float32)"),
        ({"x": X[0]}, "x has shape [4], declared is [batch, 4]", None),
        ({"x": X[:, :3]}, "x has shape [3, 3], declared is [batch, 4]", None),
        ({"x": np.zeros((9, 4), np.float32)}, "batch is 9, declared is 1 to 8", "dimensions.batch"),
        ({"x": np.zeros((0, 4), np.float32)}, "batch is 0, declared is 1 to 8", "dimensions.batch"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_numbers_and_the_fix(model, inputs, message, hint):
    with pytest.raises(InputError) as caught:
        model(**inputs)
    assert message in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


def test_dimensions_agree_across_inputs_and_keep_their_step():
    interface = Interface(
        (InputSpec("a", "int64", ("batch", "length")), InputSpec("b", "int64", ("batch", "length"))),
        (Dimension("batch", 1, 4), Dimension("length", 4, 16, 4)),
        ("y",),
    )
    check_inputs(interface, {"a": np.zeros((2, 8), np.int64), "b": np.zeros((2, 8), np.int64)})
    with pytest.raises(InputError, match=r"b has shape \[3, 8\].*batch is 2 elsewhere"):
        check_inputs(interface, {"a": np.zeros((2, 8), np.int64), "b": np.zeros((3, 8), np.int64)})
    with pytest.raises(InputError, match="length is 6, declared is 4 to 16, in steps of 4"):
        check_inputs(interface, {"a": np.zeros((2, 6), np.int64), "b": np.zeros((2, 6), np.int64)})


def test_an_index_beyond_its_declared_range_is_refused_before_a_runtime_sees_it():
    interface = Interface((InputSpec("ids", "int64", ("batch",), 0, 100),), (Dimension("batch", 1, 4),), ("y",))
    check_inputs(interface, {"ids": np.array([0, 99])})
    for wrong in (-1, 100):
        with pytest.raises(InputError, match=f"ids holds {wrong}, declared are integers from 0 to below 100"):
            check_inputs(interface, {"ids": np.array([5, wrong])})
    check_inputs(replace(interface, inputs=(InputSpec("ids", "int64", ("batch",)),)), {"ids": np.array([-7])})


def test_a_damaged_release_is_not_opened(release):
    card = release / "README.md"
    card.write_bytes(bytes(card.stat().st_size))
    with pytest.raises(DigestError, match=r"README\.md: its digest differs"):
        load_release(release)
    assert load_release(release, verify=False)(x=X)["logits"].shape == (3, 3)
    size_bytes = (release / "model.torchscript").stat().st_size
    (release / "model.torchscript").write_bytes(bytes(size_bytes))
    with pytest.raises(DigestError, match=r"model\.torchscript: it is an unknown file, not a TorchScript program"):
        load_release(release, verify=False)
    (release / "model.torchscript").write_bytes(b"")
    with pytest.raises(DigestError, match=f"manifest.json says {size_bytes} bytes"):
        load_release(release, verify=False)


def test_a_backend_that_cannot_run_it_is_an_error_that_says_why(pristine, content, changed, tmp_path):
    with pytest.raises(InputError, match="no backend 'typewriter'"):
        load_release(pristine, backend="typewriter")
    with pytest.raises(UnavailableError, match="no backend can run") as caught:
        load_release(pristine, backend="eager")
    assert "the network itself, which is not in the release" in caught.value.message
    only_torchscript = bundle.write(changed(models=content.models[1:]), tmp_path)
    with pytest.raises(UnavailableError, match="it holds torchscript"):
        load_release(only_torchscript, backend="onnxruntime-cpu")


def test_many_threads_get_the_answers_of_one(model):
    batches = [np.random.default_rng(seed).normal(size=(1 + seed % 8, 4)).astype(np.float32) for seed in range(40)]
    expected = [model(x=batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: model(x=batches[index % 40])["logits"], range(4000)))
    assert all(np.array_equal(answer, expected[index % 40]) for index, answer in enumerate(answers))


def test_checks_cost_a_handful_of_calls_and_copy_nothing(model):
    # What that is in microseconds: benchmarks/predict_overhead.py. A count of calls is the same on every machine.
    model(x=X)  # the first call imports
    assert _calls(lambda: model(x=X)) - _calls(lambda: model.run({"x": X})) <= 40
    given = replace(model, run=lambda inputs: inputs)(x=X)
    assert given["x"] is X


def _calls(call):
    counted = Counter()
    sys.setprofile(lambda *seen: counted.update((seen[1],)))
    try:
        call()
    finally:
        sys.setprofile(None)
    return counted["call"] + counted["c_call"]


STEP = Interface(
    (
        InputSpec("ids", "int64", ("batch", "new"), 0, 9),
        InputSpec("past.0.key", "float32", ("batch", "past")),
        InputSpec("past.0.value", "float32", ("batch", "past")),
        InputSpec("mask", "int64", ("batch", "total"), 0, 2),
    ),
    (
        Dimension("batch", 1, 4),
        Dimension("new", 1, 3),
        Dimension("past", 0, 8),
        Dimension("total", 1, 11, formula="past + new"),
    ),
    ("logits",),
)


def step(past, total):
    return {
        "ids": np.ones((2, 1), np.int64),
        "past.0.key": np.ones((2, past), np.float32),
        "past.0.value": np.ones((2, past), np.float32),
        "mask": np.ones((2, total), np.int64),
    }


@pytest.mark.parametrize("past", [0, 1, 8])
def test_an_empty_input_and_a_size_that_follows_from_others_are_taken(past):
    check_inputs(STEP, step(past, past + 1))


@pytest.mark.parametrize(("past", "total"), [(3, 3), (3, 5), (0, 2)])
def test_a_size_that_does_not_follow_is_refused_with_what_it_must_be(past, total):
    with pytest.raises(InputError, match=rf"total is {total}, declared is past \+ new, which is {past + 1}"):
        check_inputs(STEP, step(past, total))


def test_nested_inputs_are_given_as_the_network_takes_them():
    model = load.Model("step", "1", "onnxruntime-cpu", STEP, dict)
    flat = step(2, 3)
    nested = model(
        ids=flat["ids"], past=[{"key": flat["past.0.key"], "value": flat["past.0.value"]}], mask=flat["mask"]
    )
    assert {name: id(each) for name, each in nested.items()} == {name: id(each) for name, each in flat.items()}
    assert list(model(**flat)) == list(flat)
    with pytest.raises(InputError, match=r"inputs do not fit: missing past\.0\.value"):
        model(ids=flat["ids"], past=[{"key": flat["past.0.key"]}], mask=flat["mask"])


def test_a_manifest_keeps_formulas_and_refuses_those_that_are_none(content, changed, tmp_path):
    dimensions = {
        **content.manifest["dimensions"],
        "rows": {"min": 2, "max": 9, "multiple_of": 1, "formula": "batch + 1"},
    }
    release = bundle.write(changed(manifest={**content.manifest, "dimensions": dimensions}), tmp_path)
    assert load_release(release).interface.dimensions[1].formula == "batch + 1"
    for formula in ("batch +", "rows", "columns", "__import__('os')", "batch.x"):
        dimensions["rows"] = {**dimensions["rows"], "formula": formula}
        wrong = bundle.write(changed(manifest={**content.manifest, "dimensions": dimensions}), tmp_path)
        with pytest.raises(DigestError, match=r"formula|circle|no dimensions"):
            load_release(wrong)
