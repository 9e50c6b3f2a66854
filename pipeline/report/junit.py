"""Parity as JUnit XML: a suite a backend, a test a case and output, one more for where it ran, one an audited file, and one a claim."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pipeline.backends.placement import problems
from pipeline.parity.document import Exported

if TYPE_CHECKING:
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import Audit, BackendResult, Parity

# What XML 1.0 cannot hold at all (section 2.2).
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(name: str, parity: Parity) -> bytes:
    """Return parity.json as JUnit XML, UTF-8."""
    root = ET.Element("testsuites", name=_clean(name))
    for backend in parity.backends:
        _backend(root, name, backend)
    for export in parity.exports:
        if isinstance(export, Exported) and export.audit:
            _audit(root, f"{name}.audit.{export.artifact}", export.audit)
        if isinstance(export, Exported) and export.accuracy:
            _accuracy(root, f"{name}.accuracy.{export.artifact}", export.accuracy)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _backend(root: ET.Element, name: str, backend: BackendResult) -> None:
    findings, placement = backend.findings, backend.facts.placement
    ran = backend.status in {"pass", "fail"}
    suite = _suite(root, f"{name}.{backend.name}", len(findings) + bool(placement) if ran else 1)
    if not ran:
        test = ET.SubElement(suite, "testcase", classname=_clean(suite.get("name", "")), name="runs")
        kind = "skipped" if backend.status == "unavailable" and not backend.required else "error"
        ET.SubElement(test, kind, message=_clean(backend.reason or backend.status))
        suite.set("skipped" if kind == "skipped" else "errors", "1")
        return
    for finding in findings:
        title = f"{finding.case}: {finding.output}"
        test = ET.SubElement(suite, "testcase", classname=_clean(suite.get("name", "")), name=_clean(title))
        if not finding.passed:
            text = finding.problem or (
                f"{finding.got} instead of {finding.expected} at {list(finding.worst_index)}, "
                f"factor {finding.factor} of {finding.limit}"
            )
            ET.SubElement(test, "failure", message=_clean(text))
    misplaced = problems(placement)
    if placement:
        test = ET.SubElement(suite, "testcase", classname=_clean(suite.get("name", "")), name="runs where it should")
        for text in misplaced:
            ET.SubElement(test, "failure", message=_clean(text))
    suite.set("failures", str(sum(not finding.passed for finding in findings) + len(misplaced)))


def _audit(root: ET.Element, name: str, audit: Audit) -> None:
    suite = _suite(root, name, 1)
    test = ET.SubElement(
        suite, "testcase", classname=_clean(suite.get("name", "")), name="every constant accounted for"
    )
    kind = "error" if audit.crashed else "failure"
    for problem in audit.problems:
        ET.SubElement(test, kind, message=_clean(problem.in_words()))
    suite.set("errors" if audit.crashed else "failures", str(int(bool(audit.problems))))
    if audit.unaccounted:
        left = "\n".join(each.in_words() for each in audit.unaccounted)
        ET.SubElement(test, "system-out").text = _clean(f"not accounted for:\n{left}")


def _accuracy(root: ET.Element, name: str, accuracy: Accuracy) -> None:
    suite = _suite(root, name, len(accuracy.claims) or 1)
    if accuracy.problem is not None:
        test = ET.SubElement(suite, "testcase", classname=_clean(name), name="judged")
        ET.SubElement(test, "error", message=_clean(accuracy.problem))
        suite.set("errors", "1")
        return
    for claim in accuracy.claims:
        title = f"{claim.output}: {claim.criterion}" if claim.output else claim.criterion
        test = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(title))
        if claim.verdict != "pass":
            said = f"{claim.verdict}: {claim.in_words()}" + (f"; {advice}" if (advice := claim.advice()) else "")
            ET.SubElement(test, "failure", message=_clean(said))
    suite.set("failures", str(sum(each.verdict != "pass" for each in accuracy.claims)))


def _suite(root: ET.Element, name: str, tests: int) -> ET.Element:
    return ET.SubElement(root, "testsuite", name=_clean(name), tests=str(tests), failures="0", errors="0", skipped="0")


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)
