"""The gate knows what is wrong from what did not run, and one audit that crashes stops no other."""

from __future__ import annotations

import pytest

from pipeline.errors import GateError, UnavailableError
from pipeline.parity import prove
from pipeline.types import Artifact, Interface, Network, Variant
from pipeline.worker.process import Terms

PASSED = {"passed": True}
CRASHED = {
    "passed": False,
    "crashed": True,
    "problem_count": 1,
    "problems": [{"where": "", "module": None, "problem": "it died"}],
}
FORGED = {
    "passed": False,
    "problem_count": 1,
    "problems": [{"where": "fc1.bias", "module": "fc1", "problem": "is another"}],
}


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
        ([GOOD], {"onnx": FORGED}, GateError, "onnx, audited: fc1.bias in fc1 is another"),
        ([GOOD, proof("torchscript", "torchscript", "fail", reason="far off")], {"onnx": CRASHED}, GateError, "far off"),
    ],
)  # fmt: skip
def test_what_is_required_and_did_not_pass_closes_the_gate(proofs, audits, kind, words):
    with pytest.raises(kind, match=words):
        prove.gate(proofs, audits)


def test_what_is_not_required_does_not_close_the_gate():
    optional = proof("torchscript", "torchscript", "crashed", required=False, reason="it died")
    prove.gate([GOOD, optional], {"onnx": PASSED, "torchscript": CRASHED})


def test_an_audit_that_crashes_is_one_that_was_not_passed_and_the_next_is_made(tmp_path):
    setup = prove.Setup(
        Interface((), (), ()), Network("none:None", {}, "none", (), {}), 1, 60, terms=Terms(memory_bytes=1 << 20)
    )
    artifacts = [Artifact(name, (tmp_path / "model",)) for name in ("onnx", "torchscript")]
    found = prove.audit(artifacts, setup, {})
    assert list(found) == ["onnx", "torchscript"]
    for name, each in found.items():
        assert each["crashed"]
        assert not each["passed"]
        assert f"the audit of {name} exited with status" in prove.describe_audit(each)
        assert "(limits.memory_bytes is 1,048,576)" in prove.describe_audit(each)
