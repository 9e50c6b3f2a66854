"""OpenVINO files from a config to a release; every sabotage on the way closes the gate or is refused, with the right thing named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends.openvino import OPENVINO_CPU
from pipeline.errors import GateError, InputError, UnavailableError, UnsafeError
from pipeline.release import packages, standalone
from pipeline.release.load import load_release
from pipeline.release.verify import ANYBODY, verify
from pipeline.run.parity import Request, parity
from pipeline.run.plan import Settings
from pipeline.run.stages.results import Exported
from pipeline.run.verify import verify as verified
from pipeline.worker.inprocess import InProcessRunner
from tests.formats import networks
from tests.formats.openvino.made import edit_constant, edit_text, rounded
from tests.release.forgery import forge
from tests.test_export import NORM, SIMPLENET, _config, proven, released, sabotaged, until
from tests.weights import ir

pytestmark = pytest.mark.skipif(OPENVINO_CPU.probe() is not None, reason=str(OPENVINO_CPU.probe()))
WITH = (
    "exports=[onnx, openvino]",
    "backends=[onnxruntime-cpu, openvino-cpu]",
    "require=[onnxruntime-cpu, openvino-cpu]",
    "benchmark={reference: onnxruntime-cpu}",
)


@pytest.fixture(scope="module")
def simplenet(tmp_path_factory):
    return until("export", SIMPLENET, tmp_path_factory.mktemp("simplenet"), overrides=WITH, benchmark=False)


@pytest.fixture(scope="module")
def pristine_release(simplenet):
    return released(simplenet)


@pytest.fixture
def release(pristine_release, tmp_path):
    return Path(shutil.copytree(pristine_release, tmp_path / "release"))


def refused(state, words, change):
    """Whether the gate closes on a file that was changed so, and says these words of openvino-cpu alone."""
    with pytest.raises(GateError) as caught:
        proven(sabotaged(state, "openvino", change))
    said = str(caught.value)
    assert "onnxruntime-cpu:" not in said
    missing = [each for each in words if each not in said]
    assert not missing, f"{missing} not in: {said}"


def test_a_healthy_file_is_made_from_onnx_and_passes(simplenet):
    made = simplenet.need(Exported).named("openvino")
    assert made.made_from == "onnx"
    assert [each.name for each in made.files] == ["model.xml", "model.bin"]
    found = proven(simplenet)
    assert {each.variant.name: each.status for each in found.proofs} == {
        "onnxruntime-cpu": "pass",
        "openvino-cpu": "pass",
    }
    assert found.audits["openvino"].passed


def _largest(value):
    value.flat[np.abs(value).argmax()] *= 1.02
    return value


def _one_ulp(value):
    value.flat[0] = np.nextafter(value.flat[0], np.float32(np.inf))
    return value


@pytest.mark.parametrize("change", [_largest, _one_ulp])
def test_a_changed_weight_is_named_be_it_by_one_ulp(simplenet, change):
    refused(
        simplenet,
        ["openvino-cpu: ", "fc1.weight", "1 of 200 elements differ"],
        lambda path: edit_constant(path, "fc1.weight", change),
    )


def test_a_file_in_float16_is_named_as_such(simplenet):
    refused(simplenet, ["openvino-cpu: ", "rounded to float16"], rounded)


def test_a_file_of_one_fixed_size_is_named_with_the_size_it_refuses(simplenet):
    def fix(path):
        text = path.read_text().replace('shape="?,10"', 'shape="2,10"').replace("<dim>-1</dim>", "<dim>2</dim>")
        path.write_text(text)

    refused(simplenet, ["openvino-cpu: output 'logits'", "batch=", "refuses this case", "the file takes [2,10]"], fix)


def test_swapped_outputs_are_named(tmp_path):
    folder = _config(tmp_path, "two", "tests.formats.networks:Pair", networks.Pair(), "[first, second]")
    state = until("export", folder, tmp_path / "out", trust=("tests.formats",), overrides=WITH)

    def swap(path):
        text = path.read_text()
        for one, other in (("first", "@"), ("second", "first"), ("@", "second")):
            text = text.replace(f'output_names="{one}"', f'output_names="{other}"').replace(
                f'names="{one}"', f'names="{other}"'
            )
        path.write_text(text)

    refused(state, ["openvino-cpu: ", "outputs are swapped"], swap)


@pytest.mark.parametrize("content", ["a document type", "a layer of somebody's own", "a constant past the end"])
def test_a_strangers_file_in_its_place_does_not_pass(simplenet, content):
    state = sabotaged(simplenet, "openvino", lambda path: path.write_text(ir.HOSTILE[content][0]()))
    with pytest.raises((GateError, UnavailableError), match="openvino-cpu: "):
        proven(state)


def candidate(simplenet, folder, change=lambda _: None):
    """Hold a copy of the OpenVINO file against the network as somebody else's; return what came of it."""
    file = sabotaged(simplenet, "openvino", change).need(Exported).named("openvino").files[0]
    return parity(SIMPLENET, Settings(out=folder, runner=InProcessRunner()), Request(candidate=file))


def test_a_file_that_somebody_else_made_is_held_against_the_network(simplenet, tmp_path):
    found = candidate(simplenet, tmp_path)
    assert found.passed
    assert (found.candidate.format, found.candidate.matched) == ("openvino", "inputs matched by name, outputs by name")
    assert not candidate(simplenet, tmp_path, rounded).passed


@pytest.mark.parametrize("name", ir.HOSTILE)
def test_a_strangers_candidate_is_refused_before_openvino_sees_it(simplenet, tmp_path, name):
    make, words = ir.HOSTILE[name]
    with pytest.raises(UnsafeError) as caught:
        candidate(simplenet, tmp_path, lambda path: ir.written(path.parent, make()))
    assert words in caught.value.message


def test_a_file_that_failed_and_that_nobody_requires_does_not_ship(tmp_path):
    overrides = (*WITH[:2], "require=[onnxruntime-cpu]", WITH[3])
    state = until("export", SIMPLENET, tmp_path, overrides=overrides, benchmark=False)
    release = released(sabotaged(state, "openvino", lambda path: edit_constant(path, "fc1.weight", _one_ulp)))
    assert not list(release.glob("model.[xb]*"))
    assert json.loads((release / "manifest.json").read_bytes())["backends"].keys() == {"onnxruntime-cpu"}


def test_an_operator_that_openvino_cannot_translate_is_its_own_reason_and_the_others_go_on(tmp_path):
    """Without ONNX there is nothing to derive from, and a config says so before any work."""
    config = tmp_path / "norm.yaml"
    config.write_text(NORM.replace("exports: [torchscript, onnx]", "exports: [torchscript, openvino]"))
    with pytest.raises(InputError, match="openvino"):
        until("export", config, tmp_path / "out", trust=("tests.formats",))


# The release


def test_a_release_holds_both_files_and_is_opened_and_verified(pristine_release):
    assert {"model.xml", "model.bin", "model.onnx"} <= {each.name for each in pristine_release.iterdir()}
    verdict = verify(pristine_release)
    assert verdict.problems == ()
    assert verdict.backends == ("onnxruntime-cpu", "openvino-cpu")
    x = np.ones((3, 10), np.float32)
    by_name = {name: load_release(pristine_release, backend=name)(x=x)["logits"] for name in verdict.backends}
    np.testing.assert_allclose(by_name["openvino-cpu"], by_name["onnxruntime-cpu"], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="batch is 65"):
        load_release(pristine_release, backend="openvino-cpu")(x=np.ones((65, 10), np.float32))


def _shipped(release, without):
    code = (
        f"import runpy, sys\nfor each in {without!r}: sys.modules[each] = None\n"
        f"sys.argv = ['verify.py', {str(release)!r}]\nrunpy.run_path({str(release / 'verify.py')!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_shipped_verifier_runs_openvino_files_where_only_openvino_is(release):
    done = _shipped(release, ["onnxruntime"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "golden cases on openvino-cpu" in done.stdout
    both = _shipped(release, [])
    assert "golden cases on onnxruntime-cpu, openvino-cpu" in both.stdout


def test_the_shipped_verifier_names_what_to_install_where_nothing_can_run(release):
    done = _shipped(release, ["onnxruntime", "openvino"])
    assert done.returncode == 1
    assert "nothing here could run the golden cases: install onnxruntime or openvino" in done.stderr


ATTENDING = """
name: attending
model: {architecture: "tests.formats.networks:Attending", weights: attending.pth}
inputs: {x: {dtype: float32, shape: [batch, length, 6]}}
dimensions: {batch: {min: 1, max: 2}, length: {min: 1, max: 40}}
outputs: [y]
exports: [onnx, openvino]
backends: [onnxruntime-cpu, {name: plain, backend: openvino-cpu, options: {snippets: false}}]
require: [plain]
benchmark: {reference: onnxruntime-cpu}
"""


def test_a_release_that_was_proven_with_options_is_verified_with_them_by_everybody(tmp_path):
    """OpenVINO 2026.4.1 fuses attention at a first call of length 1 into a kernel that is wrong at lengths from 16 on."""
    torch.save(networks.made(networks.Attending()).state_dict(), tmp_path / "attending.pth")
    (tmp_path / "attending.yaml").write_text(ATTENDING)
    state = until("export", tmp_path / "attending.yaml", tmp_path / "out", trust=("tests.formats",), benchmark=False)
    release = released(state)
    manifest = standalone.read_manifest(release)
    assert standalone.proven_options(manifest, "model.xml", "openvino-cpu") == {"snippets": False}
    assert standalone.proven_options(manifest, "model.onnx", "onnxruntime-cpu") == {}
    assert standalone.proven_options(manifest, "model.onnx", "openvino-cpu") == {}
    assert verify(release).problems == ()
    assert verified(release, None, ANYBODY, None, Settings(out=tmp_path)).problems == ()
    done = _shipped(release, ["onnxruntime"])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shipped_verifier_sees_wrong_numbers_of_openvino_alone(release):
    edit_constant(release / "model.xml", "fc1.weight", _largest)
    forge(release)
    for without in ([], ["onnxruntime"]):
        done = _shipped(release, without)
        assert done.returncode == 1
        assert "openvino-cpu: " in done.stderr
        assert "onnxruntime-cpu: " not in done.stderr


def test_a_change_of_either_file_breaks_the_release(release):
    edit_text(release / "model.xml", '"true"', '"false"')
    data = bytearray((release / "model.bin").read_bytes())
    data[0] ^= 1
    (release / "model.bin").write_bytes(data)
    problems = standalone.check_files(release)
    assert {each.partition(":")[0] for each in problems} == {"model.xml", "model.bin"}


@pytest.mark.parametrize("name", ir.HOSTILE)
def test_a_strangers_release_with_digests_that_agree_is_refused_wherever_it_is_opened(release, name):
    make, words = ir.HOSTILE[name]
    content = make()
    forge(release, {"model.xml": content.encode(), "model.bin": ir.WEIGHTS})
    for way in (
        lambda: verify(release),
        lambda: load_release(release, backend="openvino-cpu"),
        lambda: load_release(release, backend="openvino-cpu", verify=False),
        lambda: packages.package(release, "zip", release.parent / "release.zip"),
    ):
        with pytest.raises(UnsafeError) as caught:
            way()
        assert words in caught.value.message


def test_two_builds_have_the_same_bytes(pristine_release, tmp_path):
    again = released(until("export", SIMPLENET, tmp_path, overrides=WITH, benchmark=False))
    for name in ("model.xml", "model.bin", "manifest.json"):
        assert (again / name).read_bytes() == (pristine_release / name).read_bytes()
