"""Hostile and broken data of the user's own, and of a release with reduced artifacts: what is calibrated on, what is judged on, golden
cases of an artifact, recommendations, metrics.

    python -m tests.sweeps.hostile_data [--part samples|metrics|releases]... [--every N]

Each ends with one error that says what to do and its documented exit code, or is not followed and that is said; never with a
traceback, a marker, a release, a temporary or a process that is left. `make sweep-hostile-data` runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.release import standalone
from tests import faults, tiny
from tests.broken_arrays import UNSAFE, Broken, broken, fine, rows
from tests.release.forgery import forge
from tests.sweeps.tally import tally
from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INPUT, DAMAGED, UNAVAILABLE = 2, 1, 4
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


def require_one_error(ended: faults.Ended, codes: tuple[int, ...], *, is_list: bool = False) -> None:
    """Fail unless a command ended with one of the exit codes and one error that says what to do, or a list of what is wrong."""
    told = ended.err[-900:]
    assert ended.code in codes, f"exit {ended.code}: {told}"
    assert "Traceback" not in ended.err, told
    assert ended.orphans == (), ended.orphans
    if ended.code and not is_list:
        lines = ended.err.splitlines()
        assert sum(line.startswith("error:") for line in lines) == 1, told
        assert any(line.startswith("fix:") for line in lines), told
    assert "\x1b" not in ended.err, told


def _samples(folder: Path, every: int) -> int:
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

    return tally("samples", cases[::every], check)


def _right(folder: Path) -> None:
    np.savez(folder / "right-calibration.npz", x=rows(64, 5))
    np.savez(folder / "right-evaluation.npz", x=rows(200, 6))


def _said(err: str) -> str:
    lines = err.splitlines()
    at = next((index for index, line in enumerate(lines) if line.startswith("error:")), len(lines))
    return " | ".join(lines[at : at + 4])[:300]


# Metrics

METRIC = """
import os, signal, sys, time
import numpy as np

def metric(outputs, sample):
    {body}
"""
METRICS: dict[str, tuple[str, str, int, str]] = {
    # what: (import, body, exit code, what is said)
    "raises": ("", "raise ValueError('no such label')", INPUT, "raised ValueError"),
    "raises on a later sample": ("", "return 1.0 if not sample.setdefault('seen', None) and sample['x'][0] < 1.5 else 1 / 0", INPUT, "raised ZeroDivisionError"),
    "raises what is no Exception": ("", "raise KeyboardInterrupt", UNAVAILABLE, "the metric"),
    "raises at import": ("raise RuntimeError('not here')", "return 1.0", INPUT, "not here"),
    "needs what is not installed": ("import no_such_package", "return 1.0", INPUT, "no_such_package"),
    "is no function": ("metric = 3", "return 1.0", UNSAFE, "is not defined there but assigned"),
    "takes other arguments": ("", "return outputs['probabilities'][0]", INPUT, "raised KeyError"),
    "NaN": ("", "return float('nan')", INPUT, "gave nan"),
    "infinity": ("", "return float('inf')", INPUT, "gave inf"),
    "text": ("", "return 'good'", INPUT, "gave str"),
    "a number as text": ("", "return '0.5'", INPUT, "gave str"),
    "nothing": ("", "return None", INPUT, "gave NoneType"),
    "an array": ("", "return outputs['logits']", INPUT, "gave ndarray"),
    "beyond its range": ("", "return 1.5", INPUT, "its range is 0 to 1"),
    "hangs": ("", "time.sleep(1000)", UNAVAILABLE, "did not finish"),
    "hangs at import": ("import time; time.sleep(1000)", "return 1.0", UNAVAILABLE, "did not finish"),
    "sys.exit": ("", "sys.exit(0)", INPUT, "raised SystemExit"),
    "sys.exit at import": ("import sys; sys.exit(0)", "return 1.0", INPUT, "SystemExit"),
    "os._exit": ("", "os._exit(7)", UNAVAILABLE, "exited with status 7"),
    "a signal": ("", "os.kill(os.getpid(), signal.SIGSEGV)", UNAVAILABLE, "SIGSEGV"),
    "a fork that goes on": ("", "os.fork(); return 1.0", UNAVAILABLE, "the metric"),
    "writes to every descriptor": ("", "[os.write(each, b'garbage' * 9) for each in range(3, 64) if os.path.exists(f'/proc/self/fd/{each}') and os.get_inheritable(each) is not None and _writes(each)]; return 1.0", UNAVAILABLE, "the metric"),
    "prints much": ("", "print('x' * 100_000); return 1.0", 0, ""),
    "changes what it is given": ("", "outputs['logits'][:] = 0; sample['x'][:] = 0; return 1.0", 0, ""),
}  # fmt: skip


def _metrics(folder: Path, every: int) -> int:
    _right(folder)
    asked = "metric: 'sweptmetric:metric', margin: 0.2"
    out = folder / "out"
    export = ("export", config(folder, "right-calibration.npz", "right-evaluation.npz"), "--out", out, "--no-benchmark")
    assert faults.weighbridge(*export).code == 0  # so that only judging is left to be done
    version = {*tiny.versions(out, "small")}

    def check(case: tuple[str, tuple[str, str, int, str]]) -> None:
        what, (before, body, code, said) = case
        if "metric = 3" in before:
            text = before
        else:
            text = f"{before}\n{METRIC.format(body=body)}\ndef _writes(each):\n    return os.readlink(f'/proc/self/fd/{{each}}').startswith(('socket', 'pipe'))\n"
        (folder / "sweptmetric.py").write_text(text)
        written = config(folder, "right-calibration.npz", "right-evaluation.npz", asked, METRIC_S)
        ended = faults.weighbridge(
            "export", written, "--out", out, "--no-benchmark", "--trust", "sweptmetric", path=folder
        )
        print(f"  metric: {what}: exit {ended.code} in {ended.seconds:.1f} s: {_said(ended.err)}", flush=True)
        made = {*tiny.versions(out, "small")} - version
        for each in made:
            shutil.rmtree(out / "small" / each)
        require_one_error(ended, (code,))
        assert said in ended.err, ended.err[-900:]
        assert tiny.temporaries(out) == []
        assert (code == 0) == bool(made)

    return tally("metrics", [*METRICS.items()][::every], check)


# Releases

CHANGED = ("golden.onnx-int8.safetensors", "onnx-int8.onnx")
RECOMMENDED = "report/recommended.json"
ODD: dict[str, Callable[[Path, bytes], object]] = {
    "missing": lambda *_: None,
    "empty": lambda path, _: path.write_bytes(b""),
    "truncated": lambda path, old: path.write_bytes(old[: len(old) // 2]),
    "a turned bit": lambda path, old: path.write_bytes(old[:-9] + bytes([old[-9] ^ 64]) + old[-8:]),
    "a huge header": lambda path, old: path.write_bytes((2**40).to_bytes(8, "little") + old[8:]),
    "a pickle": lambda path, _: path.write_bytes(asm.pickle(asm.shell(path.parent.parent / "marker"))),
    "garbage": lambda path, _: path.write_bytes(bytes(range(256)) * 40),
    "deep": lambda path, _: path.write_bytes(b"[" * 2**20),
    "much": lambda path, _: path.write_bytes(b"[" + b"0," * 2**25 + b"0]"),
    "a folder": lambda path, _: path.mkdir(),
    "a link out of it": lambda path, old: (path.parent.with_name("elsewhere").write_bytes(old), path.symlink_to(path.parent.with_name("elsewhere"))),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, _: os.mkfifo(path),
    "that of another": lambda path, _: shutil.copyfile(path.with_name({CHANGED[0]: "golden.safetensors", CHANGED[1]: "model.onnx"}.get(path.name, "parity.json")), path),
}  # fmt: skip
# What stands in a recommendation that a stranger wrote, in place of what stood there.
STRANGE: dict[str, dict[str, object]] = {
    "another schema": {"schema_version": 2},
    "NaN": {"margin": float("nan")},
    "a key of theirs": {"run": "touch marker"},
    "no choice": {"choice": None},
    "an option that is none": {"choice": {"options": {"custom_ops": "evil.so"}}},
    "a backend that is none": {"choice": {"backend": "\x1b[31mos.system\nerror: no"}},
    "a variant that is none": {"choice": {"variant": "../../x"}},
    "another artifact": {"choice": {"artifact": "half"}},
    "many threads": {"choice": {"options": {"intra_op_num_threads": 10**6}}},
    "threads by halves": {"choice": {"options": {"intra_op_num_threads": 1.5}}},
    "markup": {"why": "<script>alert(1)</script>\x1b[31m\nerror: no", "notes": ["<img src=x onerror=alert(1)>"]},
    "no candidates": {"candidates": []},
    "nothing tied": {"tied": [], "chosen": "nobody"},
    "another release's": {"digest": "0" * 64},
    "another processor's": {"processor": "x\nerror: no"},
    "negative figures": {"seconds": -1.0, "launches": -4},
    "an objective that is none": {"objective": "speed"},
}


def _merged(document: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    """Return a document with changes, those of a section among its keys."""
    return document | {
        key: {**document[key], **each} if isinstance(each, dict) and isinstance(document.get(key), dict) else each  # type: ignore[dict-item]
        for key, each in changes.items()
    }


def _stated(copy: Path) -> None:
    """Let every digest of a release agree with what lies there, as a forger would."""
    names = [
        each
        for each in (copy / "report").iterdir()
        if each.name != standalone.SUMS and each.is_file() and not each.is_symlink()
    ]
    sums = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in names}
    (copy / "report" / standalone.SUMS).write_text(standalone.format_sums(sums), encoding="utf-8")


def _commands(copy: Path, inputs: Path, out: Path) -> Iterator[list[object]]:
    yield ["verify", copy]
    yield ["predict", copy, "--input", inputs, "--output", out / "y.npz"]
    yield ["predict", copy, "--input", inputs, "--output", out / "y.npz", "--backend", "ort-int8"]
    yield ["benchmark", copy, "--seconds", "0.2"]
    yield ["package", copy, "--as", "zip", "--out", out / "packed.zip"]
    yield ["package", copy, "--as", "ort", "--out", out / "packed"]
    yield ["report", copy]
    yield ["compare", copy, copy.parent / "whole"]


def _releases(folder: Path, every: int) -> int:
    _right(folder)
    written = config(folder, "right-calibration.npz", "right-evaluation.npz")
    made = faults.weighbridge("tune", written, "--out", folder / "out", "--seconds", "2")
    assert made.code == 0, made.err
    whole = folder / "whole"
    shutil.copytree(folder / "out" / "small" / (folder / "out" / "small" / "latest").read_text().strip(), whole)
    inputs = folder / "x.npy"
    np.save(inputs, rows(3, 1))
    recommended = json.loads((whole / RECOMMENDED).read_bytes())
    cases: list[tuple[str, str, Callable[[Path, bytes], object], bool]] = [
        (place, what, put, forged)
        for place in CHANGED
        for what, put in ODD.items()
        for forged in (False, True)
        if not forged
        or what
        in {"empty", "truncated", "a turned bit", "a huge header", "a pickle", "garbage", "deep", "that of another"}
    ]
    cases += [(RECOMMENDED, what, put, False) for what, put in ODD.items()]
    cases += [
        (
            RECOMMENDED,
            what,
            lambda path, _, changes=changes: path.write_text(json.dumps(_merged(recommended, changes))),
            True,
        )
        for what, changes in STRANGE.items()
    ]

    def check(case: tuple[str, str, Callable[[Path, bytes], object], bool]) -> None:
        place, what, put, forged = case
        copy, to = folder / "copy", folder / "made"
        for each in (copy, to):
            shutil.rmtree(each, ignore_errors=True)
        to.mkdir()
        shutil.copytree(whole, copy)
        old = (copy / place).read_bytes()
        (copy / place).unlink()
        put(copy / place, old)
        if forged:
            _stated(copy) if place == RECOMMENDED else forge(copy)
        wrong = []
        for line in _commands(copy, inputs, to):
            ended = faults.weighbridge(*line, limit_s=60)
            name = " ".join(str(each) for each in line[:1] + line[2:] if not isinstance(each, Path))
            print(
                f"  {place}: {what}{', forged' if forged else ''}: {name}: exit {ended.code} in {ended.seconds:.1f} s: {_said(ended.err)}",
                flush=True,
            )
            try:
                require_one_error(ended, (0, DAMAGED, INPUT, UNSAFE, UNAVAILABLE), is_list=line[0] == "verify")
                is_bad = place != RECOMMENDED and (not forged or what != "a turned bit")
                assert not (is_bad and ended.code == 0 and line[0] in {"verify", "package"}), "it is taken for whole"
                assert not (folder / "marker").exists(), "the marker is there"
                assert ended.code != UNAVAILABLE or "defect" not in ended.err, ended.err
                assert ended.code == 0 or not {*to.glob("*.zip"), *to.glob(".tmp*")}, sorted(to.iterdir())
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
        assert not wrong, "\n".join(wrong)

    return tally("releases", cases[::every], check)


def main() -> int:
    parts: dict[str, Callable[[Path, int], int]] = {"samples": _samples, "metrics": _metrics, "releases": _releases}
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", action="append", choices=parts, help="all of them unless told")
    parser.add_argument("--every", type=int, default=1, help="take one case of so many")
    chosen, failures = parser.parse_args(), 0
    for part in chosen.part or parts:
        with tempfile.TemporaryDirectory() as name:
            failures += parts[part](Path(name).resolve(), chosen.every)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
