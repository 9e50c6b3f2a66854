"""Every report says whether what an artifact gives is good enough: the claim, what was seen, and how many more samples would tell."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from pipeline.benchmark.document import UNTIMED
from pipeline.parity.document import Parity
from pipeline.report import html, markdown
from pipeline.report.console import remarks
from pipeline.report.content import content
from pipeline.report.document import Documents
from pipeline.report.junit import render
from pipeline.report.summary import lines

CLAIM = {"criterion": "top1_agreement", "output": "y", "verdict": "pass", "value": 1.0, "lower": 0.97, "upper": 1.0}
CLAIM |= {"limit": 0.95, "samples": 100}
FAILED = {
    "criterion": "sqnr_db",
    "output": "y",
    "verdict": "fail",
    "value": 0.5,
    "lower": 0.41,
    "upper": 0.59,
    "limit": 0.9,
}
FAILED |= {"samples": 100, "threshold": 30.0, "lowest": 3.5, "median": 29.5}
OPEN = {"criterion": "metric", "output": None, "verdict": "undecided", "value": -0.01, "lower": -0.05, "upper": 0.03}
OPEN |= {"limit": -0.02, "samples": 100, "network": 0.8, "fewest": 50, "more": 400}


def parity(verdict, *claims, required=True, problem=None):
    accuracy = {
        "verdict": verdict,
        "variant": "ort",
        "required": required,
        "file": "e.npz",
        "sha256": "ab",
        "confidence": 0.95,
    }
    accuracy |= {"claims": list(claims), **({"problem": problem} if problem else {})}
    exported = {
        "name": "int8",
        "format": "onnx",
        "status": "exported",
        "size_bytes": 1,
        "facts": {},
        "notes": [],
        "audit": None,
    }
    exported |= {"accuracy": accuracy}
    head = {
        "schema_version": 1,
        "oracle": {"dtype": "float64", "fallback": None},
        "rules": {},
        "cases": [],
        "notes": [],
    }
    return Parity.from_json(head | {"exports": [exported], "backends": []})


def line(found):
    return next(each for each in lines(found, UNTIMED) if each.stage == "accuracy")


def test_a_pass_says_how_many_claims_and_samples():
    found = line(parity("pass", CLAIM))
    assert (found.verdict, found.tone, found.why) == ("pass: 1 claim on 100 samples", "good", "")


def test_what_failed_is_said_with_its_figures_and_nothing_of_what_did_not():
    found = line(parity("fail", CLAIM, FAILED, OPEN))
    assert (found.verdict, found.tone) == ("FAIL", "bad")
    assert found.why == (
        "y: 50 of 100 samples have at least 30 dB, so at most 59% of all inputs; 90% wanted; median 29.5 dB, lowest 3.5"
    )


def test_undecided_says_how_many_more_samples_would_tell():
    found = line(parity("undecided", CLAIM, OPEN))
    assert (found.verdict, found.tone) == ("undecided", "warn")
    assert found.why.startswith(
        "mean difference of the metric: -0.01, at least -0.05 and at most +0.03; more than -0.02 wanted"
    )
    assert found.why.endswith("; 400 more samples decide it in nine of ten cases if there is no drop, 50 at best")


def test_what_could_not_be_judged_is_said_so():
    assert (
        line(parity("crashed", problem="ort was ended by SIGSEGV")).why
        == "could not be judged: ort was ended by SIGSEGV"
    )


@pytest.mark.parametrize(("verdict", "claim"), [("fail", FAILED), ("undecided", OPEN)])
def test_a_report_has_no_release_where_a_required_artifact_is_not_shown_to_be_good_enough(verdict, claim):
    found = content("net", Documents(parity(verdict, claim), UNTIMED))
    assert not found.passed
    assert found.verdict[0].startswith(f"int8 is not released, its accuracy: {verdict}: ")
    assert content("net", Documents(parity(verdict, claim, required=False), UNTIMED)).passed


def test_every_claim_stands_in_markdown_and_html_and_on_the_console():
    documents = Documents(parity("fail", CLAIM, FAILED), UNTIMED)
    text = markdown.render("net", documents)
    assert "| int8 | top1_agreement of y | pass | 1 | 0.97 | 1 | 0.95 | 100 |" in text
    assert "| int8 | sqnr_db of y | **FAIL** | 0.5 |" in text
    assert "accuracy of int8: fail: y: 50 of 100 samples" in "\n".join(remarks(documents.parity))
    if html.unavailable() is None:
        assert "50 of 100 samples have at least 30 dB" in html.render("net", documents)


def test_each_claim_is_a_test_in_junit():
    root = ET.fromstring(render("net", parity("fail", CLAIM, FAILED)))  # noqa: S314 - our own
    (suite,) = root
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("net.accuracy.int8", "2", "1")
    assert "50 of 100 samples" in suite.find("testcase/failure").get("message")
    (crashed,) = ET.fromstring(render("net", parity("crashed", problem="it ended")))  # noqa: S314 - our own
    assert crashed.get("errors") == "1"
