"""Is what an artifact gives good enough? Rounded weights pass, fail or stay undecided by the right claim, and the gate closes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.architectures.simplenet import SimpleNet
from pipeline.config.accuracy import AccuracyConfig
from pipeline.config.models import GateConfig
from pipeline.errors import GateError, InputError, UnavailableError, UnsafeError
from pipeline.parity import judging
from pipeline.parity.document import Parity
from pipeline.rebuild import trust
from pipeline.run import keys
from pipeline.run.plan import Settings, plan
from pipeline.run.stages import accuracy
from pipeline.run.stages.proving import PROVE
from pipeline.run.stages.results import Exported, Judged, Released
from pipeline.run.stages.state import run
from pipeline.run.stages.table import STAGES
from tests import rounded
from tests.test_export import until

CONFIG = """
extends: {simplenet}
exports: [onnx, {{name: fine, format: rounded, bits: 16}}, {{name: coarse, format: rounded, bits: 3}}]
backends: [onnxruntime-cpu, {{name: of-fine, backend: rounded-cpu, artifact: fine}}, {{name: of-coarse, backend: rounded-cpu, artifact: coarse}}]
require: [onnxruntime-cpu, of-fine]
gates:
  fine: {{atol: 1000, rtol: 0}}
  coarse: {{atol: 1000, rtol: 0}}
benchmark: {{reference: onnxruntime-cpu, sizes: []}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config and samples: what the network says is the label of each."""
    found = tmp_path_factory.mktemp("accuracy")
    (found / "net.yaml").write_text(CONFIG.format(simplenet=Path("configs/simplenet.yaml").resolve()))
    x = np.random.default_rng(3).normal(size=(600, 10)).astype(np.float32)
    network = SimpleNet(input_size=10, hidden_size=20, output_size=2)
    network.load_state_dict(torch.load("configs/weights/simplenet.pth", weights_only=True))
    with torch.no_grad():
        labels = network.double()(torch.from_numpy(x).double()).argmax(1).numpy()
    np.savez(found / "many.npz", x=x, labels=labels)
    np.savez(found / "few.npz", x=x[:10], labels=labels[:10])
    return found


@pytest.fixture(scope="module")
def exported(folder):
    undo = rounded.install(pytest.MonkeyPatch())
    yield until("export", folder / "net.yaml", folder / "out", trust=("tests.rounded",), benchmark=False, threads=1)
    undo()


def asking(state, folder, artifact="fine", *, required=True, samples="many.npz", **criteria):
    """Return the state with a gate that asks an artifact's accuracy."""
    wanted = AccuracyConfig(samples=str(folder / samples), **criteria)
    config, planned = state.plan.config, state.plan
    gate = config.gates.get(artifact, GateConfig()).model_copy(update={"accuracy": wanted})
    metrics = {artifact: trust.locate_function(wanted.metric, planned.network.trust)} if wanted.metric else {}
    variants = tuple(
        replace(each, required=required) if each.artifact == artifact else each for each in planned.variants
    )
    gates = {**config.gates, artifact: gate}
    config = config.model_copy(update={"gates": gates})
    return replace(state, plan=replace(planned, config=config, variants=variants, metrics=metrics))


def closed(state):
    """Return what closes the gate."""
    with pytest.raises(GateError) as caught:
        run(state, [PROVE])
    return caught.value


def only(state, artifact):
    return state.need(Judged).accuracies[artifact]


def test_what_is_good_enough_is_released_with_what_was_shown(exported, folder):
    wanted = {"sqnr_db": 40.0, "top1_agreement": 0.98, "metric": "tests.rounded:right", "margin": 0.02}
    state = run(asking(exported, folder, **wanted), STAGES[2:])
    found = only(state, "fine")
    assert found.verdict == "pass"
    assert [(each.criterion, each.verdict) for each in found.claims] == [
        ("sqnr_db", "pass"),
        ("top1_agreement", "pass"),
        ("metric", "pass"),
    ]
    release = state.need(Released).path
    manifest = json.loads((release / "manifest.json").read_bytes())
    stated = {each["name"]: each.get("accuracy") for each in manifest["models"]}
    assert stated["fine"]["samples"]["sha256"] == found.sha256
    assert stated["fine"]["claims"][1]["lower"] > 0.98
    assert stated["onnx"] is None
    assert manifest["config"]["gates"]["fine"]["accuracy"]["samples"] == "many.npz"
    provenance = json.loads((release / "provenance.json").read_bytes())
    assert {"name": "many.npz", "digest": {"sha256": found.sha256}} in provenance["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]
    report = Parity.read(release / "report" / "parity.json")
    assert next(each.accuracy for each in report.exports if each.artifact == "fine") == found


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"sqnr_db": 40.0}, "samples have at least 40 dB"),
        ({"top1_agreement": 0.999}, "samples agree"),
        ({"metric": "tests.rounded:right", "margin": 0.001}, "mean difference of the metric: -"),
    ],
)
def test_what_is_off_closes_the_gate_by_the_claim_that_it_breaks(exported, folder, criteria, said):
    error = closed(asking(exported, folder, "coarse", **criteria))
    assert error.exit_code == 1
    assert said in error.message
    assert "coarse (of-coarse)" in error.message
    assert error.about == "accuracy-fail"
    assert "another precision" in error.hint
    parity = Parity.read(exported.settings.out / "simplenet" / "failed" / "report" / "parity.json")
    assert next(each.accuracy.verdict for each in parity.exports if each.artifact == "coarse") == "fail"


def test_a_claim_that_the_artifact_keeps_does_not_fail_for_another_that_it_breaks(exported, folder):
    closed(asking(exported, folder, "coarse", sqnr_db=3.0, top1_agreement=0.999))
    parity = Parity.read(exported.settings.out / "simplenet" / "failed" / "report" / "parity.json")
    (found,) = [each.accuracy for each in parity.exports if each.artifact == "coarse"]
    assert {each.criterion: each.verdict for each in found.claims} == {"sqnr_db": "pass", "top1_agreement": "fail"}


def test_too_few_samples_leave_it_undecided_which_closes_the_gate_and_says_how_many_would_do(exported, folder):
    error = closed(asking(exported, folder, samples="few.npz", top1_agreement=0.99))
    assert error.about == "accuracy-undecided"
    assert "10 of 10 samples agree, so at least 74.11% of all inputs; 99% wanted" in error.message
    assert "289 at best" in error.message
    assert "samples" in error.hint
    assert "more than now" in error.hint


def test_what_nobody_requires_is_not_released_if_it_is_not_good_enough(exported, folder):
    noted = []
    state = asking(exported, folder, "coarse", required=False, sqnr_db=40.0)
    state = run(replace(state, settings=replace(state.settings, report=noted.append)), STAGES[2:])
    manifest = json.loads((state.need(Released).path / "manifest.json").read_bytes())
    assert {each["name"] for each in manifest["models"]} == {"onnx", "fine"}
    assert set(manifest["backends"]) == {"onnxruntime-cpu", "of-fine"}
    assert any("coarse is not released: fail" in each.detail for each in noted)


def test_what_passed_is_not_judged_again_until_the_samples_or_the_claim_change(exported, folder):
    noted = []
    state = asking(exported, folder, sqnr_db=41.0)
    state = replace(state, settings=replace(state.settings, report=noted.append))

    def again(state):
        noted.clear()
        run(state, [PROVE])
        return [each.status for each in noted if each.subject == "fine accuracy"]

    assert again(state) == ["started", "ended"]
    assert again(state) == ["reused"]
    assert again(asking(state, folder, sqnr_db=42.0)) == ["started", "ended"]
    with np.load(folder / "many.npz") as arrays:
        np.savez(folder / "others.npz", x=arrays["x"][:-1], labels=arrays["labels"][:-1])
    assert again(asking(state, folder, samples="others.npz", sqnr_db=41.0)) == ["started", "ended"]


def test_files_judged_on_the_same_samples_share_them_and_what_the_network_gives(
    exported, folder, tmp_path, monkeypatch
):
    state = run(asking(exported, folder, sqnr_db=40.0), [PROVE])
    shared = accuracy.Shared(tmp_path)
    fine, coarse = (state.need(Exported).named(each).files[0] for each in ("fine", "coarse"))
    assert accuracy.would_pass(state, "fine", fine, shared)
    monkeypatch.setattr(accuracy, "_read", lambda *_, **__: pytest.fail("read again"))
    monkeypatch.setattr(judging, "OpenNetwork", lambda **_: pytest.fail("run again"))
    assert accuracy.would_pass(state, "fine", fine, shared)
    assert not accuracy.would_pass(state, "fine", coarse, shared)


def test_where_the_disk_has_no_room_the_network_is_run_again(exported, folder, tmp_path, monkeypatch):
    state = run(asking(exported, folder, sqnr_db=40.0), [PROVE])
    shared = accuracy.Shared(tmp_path)
    fine = state.need(Exported).named("fine").files[0]
    monkeypatch.setattr(judging, "_MOST_KEPT", 3000)
    assert accuracy.would_pass(state, "fine", fine, shared)
    assert sum(each.stat().st_size for each in tmp_path.rglob("*.message")) < 4000
    assert accuracy.would_pass(state, "fine", fine, shared)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("raises", r"raised KeyError \(rounded.py:\d+\) on what the network gives for sample 0"),
        ("not_a_number", "gave nan for what the network gives for sample 0, and its range is 0 to 1"),
        ("outside", "gave 1.5 for .* its range is 0 to 1"),
        ("text", "gave list for .* not a number"),
        ("leaves", r"raised SystemExit \(rounded.py:\d+\) on what the network gives for sample 0"),
        ("number_as_text", "gave str for .* not a number"),
    ],
)
def test_a_metric_that_is_none_is_said_with_the_sample(exported, folder, metric, said):
    with pytest.raises(InputError, match=said) as caught:
        run(asking(exported, folder, metric=f"tests.rounded:{metric}", margin=0.1), [PROVE])
    assert caught.value.hint


def test_a_metric_that_ends_its_process_ends_no_other_and_releases_nothing(exported, folder):
    proven = run(asking(exported, folder, sqnr_db=40.0), [PROVE])
    state = asking(proven, folder, "onnx", metric="tests.rounded:crashes", margin=0.1)
    real = replace(state, settings=replace(state.settings, runner=None))  # in processes of their own
    found = accuracy.judged(real)
    assert only(found, "onnx").verdict == "crashed"
    assert "the metric exited with status 3" in only(found, "onnx").problem
    with pytest.raises(UnavailableError, match="accuracy could not be judged"):
        accuracy.gate(found)


@pytest.mark.usefixtures("exported")
def test_an_untrusted_metric_is_refused_before_anything_runs(folder, tmp_path):
    config = tmp_path / "untrusted.yaml"
    gate = f'{{samples: "{folder}/many.npz", metric: "tests.rounded:right", margin: 0.1}}'
    config.write_text(f"extends: {folder}/net.yaml\ngates: {{fine: {{accuracy: {gate}}}}}\n")
    with pytest.raises(
        UnsafeError, match=r"fine.accuracy.metric: tests.rounded is not trusted, and judging by it runs"
    ):
        plan(config, Settings(out=tmp_path))


@pytest.mark.usefixtures("exported")
def test_a_release_depends_on_the_samples_and_on_the_metrics_code(folder, tmp_path, monkeypatch):
    (tmp_path / "judged_by.py").write_text("def score(outputs, sample):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "net.yaml"
    gate = f'{{samples: "{folder}/few.npz", metric: "judged_by:score", margin: 0.1}}'
    config.write_text(f"extends: {folder}/net.yaml\ngates: {{fine: {{accuracy: {gate}}}}}\n")
    settings = Settings(out=tmp_path, trust=("judged_by",))

    def parts():
        keys._sources.cache_clear()
        return keys.of_release(plan(config, settings), settings)

    first = parts()
    assert first["the metric's code, judged_by.py"]
    (tmp_path / "judged_by.py").write_text("def score(outputs, sample):\n    return 0.5\n")
    second = parts()
    assert {name for name in first if first[name] != second[name]} == {"the metric's code, judged_by.py"}
    config.write_text(config.read_text().replace("few.npz", "many.npz"))
    assert first["samples that fine is judged on"] != parts()["samples that fine is judged on"]


def test_samples_that_an_artifact_is_calibrated_on_are_refused(exported, folder):
    state = asking(exported, folder, sqnr_db=40.0)
    with np.load(folder / "many.npz") as arrays:
        np.savez(folder / "calibration.npz", x=arrays["x"][5:8])
    exports = [
        each.model_copy(update={"calibration": str(folder / "calibration.npz")}) if each.name == "fine" else each
        for each in state.plan.config.exports
    ]
    planned = replace(state.plan, config=state.plan.config.model_copy(update={"exports": exports}))
    with pytest.raises(InputError, match=r"3 of 600 samples to judge fine on are in calibration\.npz too"):
        accuracy.require_readable(planned)
    accuracy.require_readable(state.plan)


@pytest.mark.usefixtures("exported")
def test_a_missing_file_of_samples_is_said_with_its_place(folder, tmp_path):
    config = tmp_path / "net.yaml"
    config.write_text(
        f"extends: {folder}/net.yaml\ngates: {{fine: {{accuracy: {{samples: none.npz, sqnr_db: 40}}}}}}\n"
    )
    with pytest.raises(InputError, match=r"net.yaml:2.*there is no file of samples .*none.npz"):
        plan(config, Settings(out=tmp_path))


def test_the_report_names_what_closed_the_gate(exported, folder):
    closed(asking(exported, folder, "coarse", sqnr_db=40.0))
    text = (exported.settings.out / "simplenet" / "failed" / "report" / "report.md").read_text()
    assert "coarse is not released, its accuracy: fail: logits:" in text
    assert "| accuracy | coarse | **FAIL:" in text
    assert "## Accuracy, against the float64 network" in text
