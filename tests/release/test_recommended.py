"""What a report recommends is followed only where the manifest lists it as proven, on the processor that it holds for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipeline.benchmark.machine import cores, processor
from pipeline.errors import UnsafeError
from pipeline.release import bundle, standalone
from pipeline.release import load as loading
from pipeline.release.load import load_release
from pipeline.release.packages import KINDS, _unshown, content, package
from pipeline.release.recommended import follow, unjudged
from pipeline.release.verify import check

NAME = "report/recommended.json"


@pytest.fixture
def recommend(release):
    """Write a recommendation into the release's report, changed as said; dotted names are inside of it."""
    manifest = standalone.read_manifest(release)

    def write(**changes):
        choice = {"variant": "onnxruntime-cpu", "backend": "onnxruntime-cpu", "artifact": "onnx",
                  "options": {"intra_op_num_threads": 1, "graph_optimization_level": "extended"}}  # fmt: skip
        choice |= changes.pop("choice", {})
        row = {"name": "it", "choice": choice, "precision": "own", "factor": 0.5, "file_bytes": 9, "median_ms": 1.0,
               "p99": None, "peak_bytes": 1, "ratio": 1.0, "interval": None, "launches": 3, "left": None}  # fmt: skip
        found = {
            "schema_version": 1, "digest": manifest["digest"], "processor": processor(), "cores": 2,
            "objective": "latency", "sizes": {"batch": 1}, "callers": "one", "limits": {}, "margin": 0.03, "result": "best",
            "choice": choice, "chosen": "it", "tied": ["it"], "why": "it is", "candidates": [row], "launches": 3,
            "confirmations": 4, "seconds": 1.0, "budget_s": 2.0, "more_s": None, "tools": {}, "notes": [],
        }  # fmt: skip
        bundle.add_to_report(release, {"recommended.json": json.dumps(found | changes).encode()})
        return release

    return write


def followed(release):
    return follow(release, standalone.read_manifest(release))


def test_a_release_without_one_has_nothing_to_follow_and_nothing_to_say(release):
    found = followed(release)
    assert (found.choice, found.notes) == (None, ())


def test_it_is_opened_with_the_recommended_options_unless_another_backend_is_named(recommend):
    release = recommend()
    assert check(release) == []
    model = load_release(release)
    assert (model.backend, model.notes) == ("onnxruntime-cpu", ())
    assert model.options == {"intra_op_num_threads": 1, "graph_optimization_level": "extended"}
    assert load_release(release, backend="onnxruntime-cpu").options == {}
    assert load_release(release, backend="torchscript").backend == "torchscript"
    assert model(x=np.zeros((2, 4), np.float32))["logits"].shape == (2, 3)


def test_what_is_recommended_comes_before_what_was_fastest(recommend):
    slow = {"variant": "torchscript", "backend": "torchscript", "artifact": "torchscript", "options": {"threads": 1}}
    assert load_release(recommend(choice=slow)).backend == "torchscript"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "0" * 64}, "about another release"),
        ({"processor": "Another Processor, 0123"}, "it holds for Another Processor, 0123"),
        ({"device": "A GPU, driver 1"}, "it holds for A GPU, driver 1, and here is none"),
        ({"choice": {"variant": "openvino-cpu"}}, "does not list 'openvino-cpu' as proven"),
        ({"choice": {"variant": "eager", "backend": "eager"}}, "was proven with None on eager"),
        ({"choice": {"backend": "torchscript"}}, "not onnx on torchscript"),
        ({"choice": {"artifact": "../../elsewhere"}}, "not ../../elsewhere on"),
        ({"choice": {"options": {"graph_optimization_level": "basic"}}}, "was not proven with graph_optimization_level basic"),
        ({"choice": {"options": {"intra_op_num_threads": 10_000}}}, "intra_op_num_threads 10000"),
        ({"choice": {"options": {"intra_op_num_threads": True}}}, "intra_op_num_threads True"),
        ({"choice": {"options": {"memory_arena": 0}}}, "memory_arena 0"),
        ({"choice": {"options": {"custom_ops": "/somewhere/evil.so"}}}, "custom_ops /somewhere/evil.so"),
        ({"schema_version": 2}, "cannot be read"),
        ({"surprise": 1}, "cannot be read"),
        ({"choice": {"options": []}}, "cannot be read"),
    ],
)  # fmt: skip
def test_anything_else_is_not_followed_and_that_is_said(recommend, changes, words):
    release = recommend(**changes)
    (note,) = followed(release).notes
    assert followed(release).choice is None
    assert note.startswith(f"what {NAME} recommends is not followed: ")
    assert words in note
    model = load_release(release)
    assert model.notes == (note,)
    assert model.options == {}


def test_one_for_a_device_that_was_not_asked_for_is_not_followed(recommend):
    allowed = loading._Allowed("cuda", may_run_code=True, is_signed=False)
    release = recommend()
    backend, _, _, (note,) = loading._recommended(release, standalone.read_manifest(release), allowed)
    assert backend is None
    assert "onnxruntime-cpu is opened on cpu only" in note


def test_one_whose_file_brings_code_is_not_followed_where_digests_are_not_checked(recommend):
    slow = {"variant": "torchscript", "backend": "torchscript", "artifact": "torchscript", "options": {}}
    model = load_release(recommend(choice=slow), verify=False)
    assert model.backend == "onnxruntime-cpu"
    assert len(model.notes) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 5000, b"\xff\xfe", b"null"])
def test_a_file_that_is_none_is_not_followed(release, text):
    bundle.add_to_report(release, {"recommended.json": text})
    (note,) = followed(release).notes
    assert "cannot be read" in note


def test_a_link_in_a_report_is_neither_followed_nor_written_through(release, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (release / NAME).symlink_to(outside)
    assert followed(release).choice is None
    with pytest.raises(UnsafeError, match="is a link"):
        bundle.add_to_report(release, {"recommended.json": b"{}"})
    assert outside.read_text() == "{}"


def test_every_number_of_threads_that_is_here_may_be_recommended(recommend):
    for count in {1, cores()}:
        assert followed(recommend(choice={"options": {"intra_op_num_threads": count}})).choice
    assert not followed(recommend(choice={"options": {"intra_op_num_threads": cores() + 1}})).choice


def test_predict_says_what_it_does_not_follow(recommend, weighbridge):
    done = weighbridge("predict", recommend(processor="Another Processor, 0123"), "--example")
    assert done.code == 0
    assert done.err.startswith(f"note: what {NAME} recommends is not followed: it holds for Another Processor")
    assert weighbridge("predict", recommend(), "--example").err == ""


def test_adding_to_a_report_keeps_what_is_there_and_leaves_nothing_beside_it(release):
    before = bundle.file_digests(release)
    bundle.add_to_report(release, {"recommended.json": b"{}"})
    bundle.add_to_report(release, {"recommended.json": b"[]"})
    assert check(release) == []
    assert bundle.file_digests(release) == before
    assert standalone.list_files(release / "report") == [
        "SHA256SUMS",
        "parity.json",
        "recommended.json",
        "scripts/rerun.py",
    ]
    assert [each.name for each in release.parent.iterdir()] == [release.name]


def test_the_shipped_verifier_takes_a_release_with_a_recommendation(recommend):
    done = subprocess.run([sys.executable, recommend() / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mlflow_is_told_what_its_loader_sets_and_the_rest_is_said(recommend, tmp_path):
    release = recommend()
    packaged = package(release, "mlflow", tmp_path / "mlflow")
    flavour = json.loads((tmp_path / "mlflow" / "MLmodel").read_bytes())["flavors"]["onnx"]
    assert flavour["onnx_session_options"] == {"intra_op_num_threads": 1, "graph_optimization_level": 2}
    assert packaged.notes == ()
    release = recommend(choice={"options": {"memory_arena": False}})
    (note,) = package(release, "mlflow", tmp_path / "other").notes
    assert "does not set enable_cpu_mem_arena" in note
    flavour = json.loads((tmp_path / "other" / "MLmodel").read_bytes())["flavors"]["onnx"]
    assert "onnx_session_options" not in flavour


@pytest.mark.parametrize("kind", ["triton", "ort"])
def test_what_a_package_cannot_say_of_a_recommendation_is_said_where_it_is_made(recommend, tmp_path, kind):
    notes = package(recommend(), kind, tmp_path / kind).notes
    assert any(
        "weighbridge tune recommends intra_op_num_threads 1, graph_optimization_level 2" in each for each in notes
    )
    other = package(recommend(processor="Another Processor"), kind, tmp_path / "other").notes
    assert any("is not followed: it holds for Another Processor" in each for each in other)


def test_what_nobody_has_shown_to_be_good_enough_is_not_followed(recommend):
    release = recommend()
    manifest = standalone.read_manifest(release)
    own = [
        each | {"golden": "golden.onnx.safetensors"} if each["format"] == "onnx" else each
        for each in manifest["models"]
    ]
    found = follow(release, {**manifest, "models": own})
    assert found.choice is None
    assert "has a precision of its own, and nobody has shown" in found.notes[0]
    assert "onnxruntime-cpu" in unjudged({**manifest, "models": own})
    judged = [each | {"accuracy": {"claims": []}} if each["format"] == "onnx" else each for each in own]
    assert follow(release, {**manifest, "models": judged}).choice is not None
    assert unjudged(manifest) == unjudged({**manifest, "models": judged}) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_says_which_of_its_models_nobody_has_shown_to_be_good_enough(release, kind):
    found = content.read(release)
    half = {
        **next(each for each in found.manifest["models"] if each["format"] == "onnx"),
        "name": "half",
        "golden": "golden.half.safetensors",
    }
    both = replace(found, manifest={**found.manifest, "models": [*found.manifest["models"], half]})
    told = _unshown(KINDS[kind].models(both))
    assert [each.split()[0] for each in told] == ([] if kind == "mlflow" else ["half"])
    alone = replace(found, manifest={**found.manifest, "models": [half]})
    assert len(_unshown(KINDS[kind].models(alone))) == 1
    assert _unshown(KINDS[kind].models(found)) == ()
