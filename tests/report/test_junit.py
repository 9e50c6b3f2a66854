"""JUnit XML must parse, count what failed, and survive what XML cannot hold."""

from xml.etree import ElementTree as ET

from pipeline.parity.document import Parity
from pipeline.report.junit import render

FINDING = {"case": "odd", "output": "y", "passed": True, "problem": None, "got": 1.0, "expected": 1.0}
FINDING |= {"worst_index": [0], "factor": 0.5, "limit": 16}
REPORT = {"schema_version": 1, "oracle": {"dtype": "float64", "fallback": None}, "rules": {}, "cases": [], "notes": []}


def backend(name, status, findings=(), *, required=True, placement=None):
    facts = {"placement": placement} if placement else {}
    return {
        "name": name,
        "backend": name,
        "worst": None,
        "status": status,
        "required": required,
        "reason": "why\x00not",
        "findings": list(findings),
        "facts": facts,
    }


def parsed(backends, audit=None):
    exported = {"format": "onnx", "status": "exported", "size_bytes": 1, "facts": {}, "notes": [], "audit": audit}
    report = REPORT | {"backends": backends, "exports": [exported] if audit else []}
    return ET.fromstring(render("net", Parity.from_json(report)))  # noqa: S314 - our own


def test_each_case_of_each_output_is_a_test_and_failures_are_counted():
    root = parsed([backend("ort", "fail", [FINDING, FINDING | {"passed": False, "got": 2.0}])])
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert "2.0 instead of 1.0" in suite.find("testcase/failure").get("message")


def test_what_could_not_run_is_an_error_if_required_and_skipped_if_not():
    root = parsed([backend("a", "crashed"), backend("b", "unavailable", required=False)])
    assert root.find("testsuite/testcase/error").get("message") == "why\ufffdnot"
    assert root.find("testsuite/testcase/skipped") is not None


def test_where_a_backend_ran_is_a_test_of_its_own():
    left = [{"node": "conv", "operator": "Conv", "ms": 1.0}]
    for left_on_cpu, failures in (([], "0"), (left, "1")):
        placement = {"providers": {}, "copies": 0, "left_on_cpu": left_on_cpu}
        (suite,) = parsed([backend("ort", "fail" if left_on_cpu else "pass", [FINDING], placement=placement)])
        assert (suite.get("tests"), suite.get("failures")) == ("2", failures)
        failed = suite.find("testcase[@name='runs where it should']/failure")
        assert (failed is None) == (not left_on_cpu)
    assert "conv (Conv)" in failed.get("message")


def test_a_failed_audit_is_a_failure():
    root = parsed(
        [], {"passed": False, "problem_count": 1, "problems": [{"where": "fc.weight", "problem": "nearly equals"}]}
    )
    assert root.find("testsuite/testcase/failure").get("message") == "fc.weight nearly equals"
