"""A backend is judged by its outputs and by where its nodes ran; the gate closes on a required one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends.variant import Variant
from pipeline.errors import GateError, UnavailableError
from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx.export import OnnxOptions, export
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import jobs, oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import Finding
from pipeline.parity.document import Audit, AuditProblem, Explanation, Oracle, Parity
from pipeline.rebuild import cases
from pipeline.rebuild.network import Network
from pipeline.report import console
from pipeline.worker.inprocess import InProcessRunner
from pipeline.worker.process import LocalRunner
from pipeline.worker.session import ReadPlacement

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 9),), ("y",))
LEFT = {"node": "node_linear", "operator": "Gemm", "ms": 0.1}


def proof_of(module, folder, monkeypatch, *, required, left):
    """Prove an exported file; `left` are the nodes that a GPU's profile would show on the CPU."""
    torch.manual_seed(0)
    examples = cases.make(INTERFACE, cases.example_sizes(INTERFACE), seed=0, name="exporter").inputs
    file = export(FromNetwork(module, INTERFACE, examples, folder / "model.onnx", {}), OnnxOptions()).files[0]
    sampled = cases.sample(INTERFACE, seed=0, cap_elements=100)
    known = prove.truth(
        sampled, *oracle.evaluate(module, INTERFACE, [case.inputs for case in sampled], seed=0), {"y": Rule()}
    )
    placed = ReadPlacement.run
    monkeypatch.setattr(ReadPlacement, "run", lambda self, context: {**placed(self, context), "left_on_cpu": left})
    variant = Variant("ort", "onnxruntime-cpu", "onnx", required=required, file=file)
    network = Network("none:None", {}, "", (), {})
    conditions = prove.Conditions(INTERFACE, network, threads=1, timeout_s=60, runner=InProcessRunner())
    (found,) = prove.prove([variant], conditions, known)
    return found


def test_a_backend_that_runs_where_it_should_passes(tmp_path, monkeypatch):
    proof = proof_of(torch.nn.Linear(4, 2), tmp_path, monkeypatch, required=True, left=[])
    assert proof.status == "pass"
    assert proof.facts["placement"]["providers"]["CPUExecutionProvider"]["node_share"] == 1
    prove.gate([proof])


def test_a_required_backend_whose_outputs_are_right_but_computed_on_the_cpu_closes_the_gate(tmp_path, monkeypatch):
    proof = proof_of(torch.nn.Linear(4, 2), tmp_path, monkeypatch, required=True, left=[LEFT])
    assert all(finding.passed for finding in proof.findings)
    assert proof.status == "fail"
    with pytest.raises(GateError, match=r"not what was asked for:\n  ort: 1 of its nodes .* node_linear \(Gemm\)"):
        prove.gate([proof])


def test_an_optional_one_fails_too_but_closes_no_gate(tmp_path, monkeypatch):
    proof = proof_of(torch.nn.Linear(4, 2), tmp_path, monkeypatch, required=False, left=[LEFT])
    assert (proof.status, proof.reason) == ("fail", "1 of its nodes computed on the CPU: node_linear (Gemm)")
    prove.gate([proof])


def test_an_explicit_tolerance_is_named_as_what_was_exceeded_and_not_the_noise_floor():
    finding = Finding("odd", "y", passed=False, factor=3.0, limit=1.0, worst_index=(0, 1), expected=1.0, got=1.3)
    known = prove.Truth((), (), (), {"y": Rule(atol=0.1, rtol=0.0)}, None)
    said = prove.finding_in_words(finding, known)
    assert said == "output 'y' in case 'odd': 1.3 instead of 1 at [0, 1], 3 × what atol 0.1 and rtol 0 allow"


def test_where_float64_is_impossible_the_console_says_what_the_reference_is():
    oracle = Oracle(dtype="float32", fallback="no float64 kernel")
    found = Parity(schema_version=1, oracle=oracle, rules={}, cases=(), exports=(), backends=(), notes=())
    assert console.remarks(found) == [
        "the reference is float32 eager, because float64 is not possible here: no float64 kernel"
    ]


def test_an_explanation_names_the_smallest_case_with_its_sizes_and_says_when_it_is_not_certain():
    culprit = {"node": "n", "operator": "Gemm", "module": "fc", "source": "net.py:3", "got": 1, "expected": 2}
    culprit |= {"worst_index": (0,), "certain": False, "output": "y"}
    case = {"name": "large, smaller (1)", "sizes": {"batch": 1}, "elements": 4}
    found = {"backend": "ort", "broke": "all", "case": case, "ladder": [], "problem": None}
    said = Explanation.from_json(found | {"culprit": culprit}).in_words()
    assert "(smallest case 'large, smaller (1)': batch=1); the error probably begins in Gemm n, of fc, net.py:3" in said
    module = {"module": "", "operator": "Branch", "got": 1.0, "expected": 2.0, "output": 0}
    said = Explanation.from_json(found | {"culprit": module}).in_words()
    assert said.endswith("the error begins in the network itself, in no module of it: 1.0 instead of 2.0")


PASSED = Audit(passed=True, problems=(), problem_count=0)
CRASHED, FORGED = (
    Audit(passed=False, crashed=crashed, problem_count=1, problems=(problem,))
    for crashed, problem in (
        (True, AuditProblem(where="", problem="it died")),
        (False, AuditProblem(where="fc1.bias", module="fc1", problem="is another")),
    )
)


def proof(name, format_, status, *, required=True, reason=None):
    return prove.Proof(Variant(name, name, format_, required), status, reason, (), {})


GOOD = proof("onnxruntime-cpu", "onnx", "pass")


@pytest.mark.parametrize(
    ("proofs", "audits", "kind", "words"),
    [
        ([GOOD, proof("torchscript", "torchscript", "crashed", reason="it died")], {}, UnavailableError, "torchscript: it died"),
        ([GOOD, proof("torchscript", "torchscript", "unavailable", reason="refused")], {}, UnavailableError, "torchscript: refused"),
        ([GOOD, proof("torchscript", "torchscript", "fail", reason="far off")], {}, GateError, "torchscript: far off"),
        ([GOOD], {"onnx": CRASHED}, UnavailableError, "it died"),
        ([GOOD], {"onnx": FORGED}, GateError, "onnxruntime-cpu: the file it runs holds what the network does not: fc1.bias in fc1 is another"),
        ([GOOD, proof("torchscript", "torchscript", "fail", reason="far off")], {"onnx": CRASHED}, GateError, "far off"),
    ],
)  # fmt: skip
def test_what_is_required_and_did_not_pass_closes_the_gate(proofs, audits, kind, words):
    with pytest.raises(kind, match=words):
        prove.gate(prove.with_audits(proofs, audits))


def test_what_is_not_required_does_not_close_the_gate():
    optional = proof("torchscript", "torchscript", "crashed", required=False, reason="it died")
    prove.gate(prove.with_audits([GOOD, optional], {"onnx": PASSED, "torchscript": CRASHED}))


def test_no_backend_passes_on_a_file_that_failed_its_audit_and_the_network_itself_has_none():
    eager = proof("eager", None, "pass")
    optional = proof("torchscript", "torchscript", "pass", required=False)
    found = prove.with_audits([eager, GOOD, optional], {"onnx": PASSED, "torchscript": FORGED})
    assert [each.status for each in found] == ["pass", "pass", "fail"]
    far = proof("torchscript", "torchscript", "fail", reason="far off")
    (both,) = prove.with_audits([far], {"torchscript": FORGED})
    assert both.reason == "far off; the file it runs holds what the network does not: fc1.bias in fc1 is another"


def test_what_a_program_computes_from_weights_alone_reaches_the_process_that_audits():
    folded = {"scalar_tensor_default": np.array(1.0, np.float32), "expand": np.zeros((2, 3), np.int64)}
    program = {"steps": [{"name": "add", "arguments": {"alpha": 1}}], "folded": folded, "captured": True}
    sent = jobs.Exported(format="onnx", file=Path("model.onnx"), program=program)
    assert sent.program is not None
    assert sent.program["folded"] == folded


def test_where_the_audit_crashes_no_file_passed_it(tmp_path):
    network = Network("tests.parity.suspects:Dies", {}, "configs/weights/simplenet.pth", ("tests",), {})
    conditions = prove.Conditions(Interface((), (), ()), network, 1, 60, runner=LocalRunner())
    artifacts = [Artifact(name, name, Written((tmp_path / "model",))) for name in ("onnx", "torchscript")]
    found = prove.audit(artifacts, conditions, {})
    assert list(found) == ["onnx", "torchscript"]
    for each in found.values():
        assert each.crashed
        assert not each.passed
        assert "the audit was ended by SIGABRT" in each.in_words()
