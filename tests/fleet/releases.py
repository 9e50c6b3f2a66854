"""Releases on disk whose reports state what a test gives: written by the real bundle, and of the form that the real documents have."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

from pipeline.benchmark import machine
from pipeline.benchmark.document import Benchmark
from pipeline.parity.document import Parity
from pipeline.release import bundle
from pipeline.storage.store import canonical_json

HERE = dataclasses.asdict(machine.here()) | {"cpu_model": "EPYC", "thread_variables": {}}
ELSEWHERE = HERE | {"cpu_model": "Xeon"}
RAW = {
    "reference": "eager",
    "control": "eager (A/A)",
    "arms": [],
    "plan": {"seconds": 1.0},
    "launches": [],
    "elapsed_s": 1.0,
}
NOTHING = dict.fromkeys(
    ("start_ms", "import_ms", "load_ms", "baseline_bytes", "steady_bytes", "peak_bytes", "file_bytes")
)


def backend(name="onnxruntime-cpu", factor=1.5, status="pass", reason=None, required=True):
    worst = {"case": "odd", "output": "logits", "passed": status == "pass", "factor": factor, "limit": 16.0}
    return {
        "name": name, "backend": name, "required": required, "status": status, "reason": reason, "worst": worst, "findings": [],
        "facts": {},
    }  # fmt: skip


def exported(name="onnx", size_bytes=1000, **more):
    return {
        "name": name, "format": name, "status": "exported", "size_bytes": size_bytes, "facts": {}, "audit": None, "notes": [],
    } | more  # fmt: skip


def parity(*backends, exports=None):
    exports = [exported()] if exports is None else exports
    found = {
        "schema_version": 1, "oracle": {"dtype": "float64", "fallback": None}, "rules": {}, "cases": [],
        "exports": exports, "backends": list(backends or (backend("eager", 1.0), backend())), "notes": [],
    }  # fmt: skip
    return Parity.from_json(found).to_json()


def timed(name, median_ms, ratio=None, spread=0.01, verdict="faster", launches=6):
    interval = [median_ms * math.exp(-spread), median_ms * math.exp(spread)]
    return {
        "name": name, "ratio": ratio, "interval": ratio and [ratio * 0.98, ratio * 1.02], "verdict": verdict, "reason": "", "p_value": None,
        "median_ms": median_ms, "median_interval_ms": interval, "p50": None, "p90": None, "p95": None, "p99": None,
        "calls": 9, "rounds": 9, "launches": launches, "settled": True,
    }  # fmt: skip


def benchmark(*rows, on=HERE, can_tell=True, peaks=None):
    rows = rows or (timed("eager", 2.0, verdict="reference"), timed("onnxruntime-cpu", 1.0, ratio=0.5))
    size = {
        "sizes": {"batch": 1}, "reference": "eager", "control": "eager (A/A)", "margin": 0.03, "confidence": 0.95, "can_tell": can_tell,
        "reason": "" if can_tell else "two copies of eager differ", "rows": list(rows), "samples": RAW,
    }  # fmt: skip
    held = [
        {**NOTHING, "name": name, "first_call_ms": {}, "peak_bytes_by_launch": each}
        for name, each in (peaks or {}).items()
    ]
    figures = {
        "backends": held, "roofline": {}, "graph": None, "achieved": {}, "energy": {"joules_per_call": {}, "reason": None},
        "throughput": [], "throughput_notes": [], "notes": [],
    }  # fmt: skip
    return Benchmark.from_json({"schema_version": 1, "sizes": [size], "machine": on, "figures": figures}).to_json()


UNTIMED = {"schema_version": 1, "sizes": [], "machine": None}


def ran(root, name, version=None, error=None, day=1):
    (root / name).mkdir(parents=True, exist_ok=True)
    run = {"name": name, "started_at": f"2026-11-{day:02}T10:00:00.000+00:00", "exit_code": 1 if error else 0}
    (root / name / "run.json").write_bytes(canonical_json(run | ({"error": error} if error else {"release": version})))


def release(root, content, name="tiny", *, judged=None, times=None, version=None, **more):
    """Write a release; `judged` and `times` are what its report states."""
    report = {"parity.json": judged or parity(), "benchmark.json": times or benchmark(), **more}
    manifest = content.manifest | ({"config": {"release": {"version": version}}} if version else {})
    stated = {file: each if isinstance(each, bytes) else canonical_json(each) for file, each in report.items()}
    written = bundle.write(replace(content, name=name, version=version, manifest=manifest, report=stated), root)
    ran(root, name, written.name)
    return written


def failed(root, name="bad", why="parity: onnxruntime-cpu is 40 × the noise floor", judged=None):
    """Write what is left of a run whose gate closed."""
    ran(root, name, error=why, day=2)
    judged = judged or parity(backend(factor=40.0, status="fail", reason="output 'logits' is 40 × the noise floor"))
    return bundle.write_failed(name, root, {"parity.json": canonical_json(judged)})
