"""One release under one environment: what is compared, and what is never opened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DefectError, DigestError, InputError, UnsafeError
from pipeline.fleet.replay import trial
from pipeline.fleet.replay.replay import Settings, replay
from pipeline.fleet.replay.requirements import candidate
from pipeline.fleet.replay.trial import Limits, check, excess, judged, look
from pipeline.release.verify import ANYBODY
from pipeline.worker.process import LocalRunner
from tests.formats.torchscript import programs
from tests.release.forgery import forge

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is:DeprecationWarning")
LIMITS = Limits(threads=1, timeout_s=60.0)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.001, 30.0, np.inf, np.nan])
def test_the_factor_is_above_one_exactly_where_the_verifier_has_something_to_say(golden, share):
    case = golden.cases[1]
    allowed = golden.limit * np.broadcast_to(case.floors["logits"], case.outputs["logits"].shape)
    wide = case.outputs["logits"].astype(np.float64)
    wide[2, 1] += share * allowed[2, 1]
    exact = replace(case, outputs=case.outputs | {"logits": case.outputs["logits"].astype(np.float64)})
    factor, findings = judged(golden, exact, case.outputs | {"logits": wide})
    assert bool(findings) == (not factor <= 1)
    assert factor == pytest.approx(share if np.isfinite(share) else np.inf)


def test_explicit_tolerances_are_what_a_factor_counts_in(golden):
    case = golden.cases[0]
    told = replace(golden, tolerances={"logits": {"atol": 0.5, "rtol": 0.0}})
    assert excess(told, case, "logits", case.outputs["logits"] + np.float32(1)) == pytest.approx(2, rel=1e-6)


def test_what_must_be_exact_or_is_of_another_shape_or_missing_is_beyond_any_factor(golden):
    case = golden.cases[1]
    other = case.outputs | {"best": case.outputs["best"] + 1}
    factor, (finding,) = judged(golden, case, other)
    assert factor == np.inf
    assert (finding.output, finding.case) == ("best", "normal-5")
    assert "must be exact" in finding.reason
    assert judged(golden, case, case.outputs | {"logits": case.outputs["logits"][:1]})[0] == np.inf
    assert judged(golden, case, {"logits": case.outputs["logits"]})[0] == np.inf


def test_only_what_was_proven_is_a_way_to_run_a_release(release):
    found = check(release, ANYBODY)
    assert [(each.name, each.file, each.is_required) for each in found.ways] == [
        ("onnxruntime-cpu", "model.onnx", True),
        ("torchscript", "model.torchscript", True),
    ]


def test_a_release_with_a_changed_byte_is_not_opened(release):
    path = release / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DigestError, match=r"model\.onnx"):
        check(release, ANYBODY)


def test_a_strangers_release_whose_file_runs_code_is_refused_though_its_digests_agree(release, tmp_path):
    marker = tmp_path / "marker"
    program = programs.saved(programs.Restores(str(marker)), tmp_path / "model.torchscript").read_bytes()
    marker.unlink(missing_ok=True)
    forge(release, {"model.torchscript": program})
    found = replay([release], [candidate("numpy==0.0.1")], Settings(tmp_path))
    assert isinstance(found.refused[0].error, UnsafeError)
    assert found.exit_code == 3
    assert not found.candidates
    assert not marker.exists()


def test_a_manifest_cannot_have_a_file_opened_as_what_it_was_not_looked_at_as(release):
    forge(release, edit=lambda manifest: manifest["backends"]["torchscript"].update(artifact="onnx"))
    with pytest.raises(DigestError, match=r"torchscript runs torchscript, and model\.onnx is onnx"):
        check(release, ANYBODY)


def test_a_release_of_which_only_the_network_was_proven_has_nothing_to_replay(release):
    def only_eager(manifest):
        manifest["backends"] = {"eager": manifest["backends"]["eager"]}

    forge(release, edit=only_eager)
    with pytest.raises(InputError, match="nothing to replay") as raised:
        check(release, ANYBODY)
    assert "--against CONFIG" in raised.value.hint


def test_machine_code_of_nobody_knows_whom_is_withheld_and_said(release, monkeypatch):
    monkeypatch.setattr(trial.opening, "is_native", lambda each: each == "onnx")
    monkeypatch.setattr(trial.opening, "native_as", lambda _: "machine code")
    found = check(release, ANYBODY)
    assert [each.name for each in found.ways] == ["torchscript"]
    assert [(way.name, why) for way, why in found.withheld] == [
        ("onnxruntime-cpu", "its file is machine code, which runs only with --key")
    ]


def test_a_process_that_is_not_in_the_environment_that_was_asked_for_is_a_defect():
    runner = LocalRunner(above=())
    assert look(["onnxruntime-cpu"], runner, {}, LIMITS).unavailable == {"onnxruntime-cpu": None}
    with pytest.raises(DefectError, match="onnxruntime"):
        look(["onnxruntime-cpu"], runner, {"onnxruntime": "0.0.1"}, LIMITS)


def test_a_way_that_no_distribution_brings_cannot_run():
    found = look(["nobodys"], LocalRunner(above=()), {}, LIMITS)
    assert found.unavailable == {"nobodys": "no distribution brings this backend"}
