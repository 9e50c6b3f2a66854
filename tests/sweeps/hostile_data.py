"""Hostile and broken data of the user's own, and of a release with reduced artifacts: what is calibrated on, what is judged on, golden
cases of an artifact, recommendations, metrics.

    python -m tests.sweeps.hostile_data [--part samples|metrics|releases]...

Each ends with one error that says what to do and its documented exit code, or is not followed and that is said; never with a
traceback, a marker, a release, a temporary or a process that is left. `make sweep-hostile PART=data` runs it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests import faults, tiny
from tests.broken_arrays import Broken, broken, fine, rows
from tests.sweeps.tally import tally

if TYPE_CHECKING:
    from collections.abc import Callable

DAMAGED, UNAVAILABLE = 1, 4
CALIBRATION, EVALUATION = "calibration", "evaluation"
PLACES = (CALIBRATION, EVALUATION)
METRIC_S = 4.0
CONFIG = """
extends: {simplenet}
name: small
exports:
  - onnx
  - {{name: onnx-int8, format: onnx, from: onnx, precision: int8, calibration: {calibration}}}
backends: [eager, onnxruntime-cpu, {{name: ort-int8, backend: onnxruntime-cpu, artifact: onnx-int8}}]
require: [onnxruntime-cpu, ort-int8]
gates: {{onnx-int8: {{accuracy: {{samples: {evaluation}, {asked}}}}}}}
limits: {{export_seconds: 120, run_seconds: {seconds}}}
tune: {{seconds: 2}}
"""


def config(folder: Path, calibration: str, evaluation: str, asked: str = "sqnr_db: 5", seconds: float = 120) -> Path:
    """Write a config of SimpleNet in int8, calibrated on one file and judged on the other."""
    path = folder / "small.yaml"
    simplenet = Path("configs/simplenet.yaml").resolve()
    text = CONFIG.format(
        simplenet=simplenet, calibration=calibration, evaluation=evaluation, asked=asked, seconds=seconds
    )
    path.write_text(text)
    return path


def require_one_error(ended: faults.Ended, codes: tuple[int, ...]) -> None:
    """Fail unless a command ended with one of the exit codes and one error that says what to do."""
    told = ended.err[-900:]
    assert ended.code in codes, f"exit {ended.code}: {told}"
    assert "Traceback" not in ended.err, told
    assert ended.orphans == (), ended.orphans
    if ended.code:
        lines = ended.err.splitlines()
        assert sum(line.startswith("error:") for line in lines) == 1, told
        assert any(line.startswith("fix:") for line in lines), told
        assert "\x1b" not in ended.err, told


def _samples(folder: Path) -> int:
    marker = folder / "marker"
    _right(folder)
    every = broken(marker)
    cases = [(place, what, each) for what, each in every.items() for place in PLACES]
    cases += [(place, what, each) for what, each in fine().items() for place in PLACES]
    shared = Broken(lambda path: shutil.copyfile(folder / "right-calibration.npz", path))
    cases.append((EVALUATION, "the rows it was calibrated on", shared))

    def check(case: tuple[str, str, Broken]) -> None:
        place, what, each = case
        path = folder / f"{place}{each.suffix}"
        for old in folder.glob(f"{place}.*"):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        each.put(path)
        names = {other: f"right-{other}.npz" for other in PLACES} | {place: path.name}
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = "export" if each.codes == (0,) else ("export", "tune")[len(what) % 2]
        timing = ["--no-benchmark"] if command == "export" else []
        ended = faults.weighbridge(command, config(folder, **names), "--out", out, *timing)
        print(f"  {place}: {what}: exit {ended.code} in {ended.seconds:.1f} s: {_said(ended.err)}", flush=True)
        require_one_error(ended, each.codes)
        assert not marker.exists(), "the marker is there"
        assert bool(tiny.versions(out, "small")) == (ended.code == 0)
        assert tiny.temporaries(out) == []
        if ended.code:
            assert path.name in ended.err, ended.err[-900:]

    return tally("samples", cases, check)


def _right(folder: Path) -> None:
    np.savez(folder / "right-calibration.npz", x=rows(64, 5))
    np.savez(folder / "right-evaluation.npz", x=rows(200, 6))


def _said(err: str) -> str:
    lines = err.splitlines()
    at = next((index for index, line in enumerate(lines) if line.startswith("error:")), len(lines))
    return " | ".join(lines[at : at + 4])[:300]


def main() -> int:
    parts: dict[str, Callable[[Path], int]] = {"samples": _samples}
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", action="append", choices=parts, help="all of them unless told")
    failures = 0
    for part in parser.parse_args().part or parts:
        with tempfile.TemporaryDirectory() as name:
            failures += parts[part](Path(name).resolve())
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
