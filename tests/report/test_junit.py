"""JUnit XML must parse, count what failed, and survive what XML cannot hold."""

from xml.etree import ElementTree as ET

from pipeline.report.junit import render

FINDING = {"case": "odd", "output": "y", "passed": True, "problem": None, "got": 1.0, "expected": 1.0}
FINDING |= {"worst_index": [0], "factor": 0.5, "limit": 16}


def backend(name, status, findings=(), *, required=True):
    return {"name": name, "status": status, "required": required, "reason": "why\x00not", "findings": list(findings)}


def parsed(backends, audit=None):
    exports = [{"format": "onnx", "audit": audit}] if audit else []
    return ET.fromstring(render("net", {"backends": backends, "exports": exports}))  # noqa: S314 - our own


def test_each_case_of_each_output_is_a_test_and_failures_are_counted():
    root = parsed([backend("ort", "fail", [FINDING, FINDING | {"passed": False, "got": 2.0}])])
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert "2.0 instead of 1.0" in suite.find("testcase/failure").get("message")


def test_what_could_not_run_is_an_error_if_required_and_skipped_if_not():
    root = parsed([backend("a", "crashed"), backend("b", "unavailable", required=False)])
    assert root.find("testsuite/testcase/error").get("message") == "why\ufffdnot"
    assert root.find("testsuite/testcase/skipped") is not None


def test_a_failed_audit_is_a_failure():
    root = parsed([], {"problems": [{"where": "fc.weight", "problem": "nearly equals"}]})
    assert root.find("testsuite/testcase/failure").get("message") == "fc.weight nearly equals"
