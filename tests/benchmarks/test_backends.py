"""The table of all backends: what was timed as a ratio, what was not with its reason; and the backends by hand as any others."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import backends, by_hand

PARITY = {
    "exports": [
        {"name": "onnx", "format": "onnx", "status": "exported"},
        {"name": "", "format": "executorch", "status": "refused", "reason": "no size\nof its own"},
    ],
    "backends": [
        {"name": "eager", "status": "pass", "worst": {"factor": 1.0}, "reason": None, "facts": {"load_ms": 3.0}},
        {"name": "onnxruntime-cpu", "status": "pass", "worst": {"factor": 0.5}, "reason": None, "facts": None},
        {"name": "openvino-cpu", "status": "fail", "worst": {"factor": 99.0}, "reason": "off by 99", "facts": None},
    ],
}
TIMES = {"sizes": [{"sizes": {"batch": 1}, "rows": [
    {"name": "eager", "median_ms": 2.0, "verdict": None},
    {"name": "onnxruntime-cpu", "median_ms": 1.0, "verdict": "faster"},
]}]}  # fmt: skip


def test_a_row_has_ratios_verdicts_and_reasons(tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps(TIMES))
    row = backends.found(PARITY, tmp_path / "benchmark.json")
    assert row["refused"] == {"executorch": "no size\nof its own"}
    assert row["backends"]["onnxruntime-cpu"]["timed"]["batch=1"]["ratio"] == 0.5
    text = backends.table({"net": row})
    first = text.splitlines()[2]
    assert "0.50" in first
    assert "fail" in first
    assert "| net | openvino-cpu | off by 99 |" in text
    assert "| net | executorch | no size of its own |" in text


def test_the_backends_by_hand_are_found_like_those_of_any_distribution(tmp_path):
    variables = os.environ | by_hand.install(tmp_path)
    code = "from pipeline.backends.table import backends; print(*(name for name in backends() if name.startswith('by-hand')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=Path.cwd(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [each.name for each in by_hand.BY_HAND]
