"""A distribution with a format and a backend of its own, as CONTRIBUTING.md shows it, goes all the way without a change of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
extends: {root}/configs/simplenet.yaml
exports: {exports}
backends: {backends}
require: [{required}]
benchmark: {{reference: {required}, seconds: 3, sizes: [{{batch: 1}}]}}
"""
ENGINE = """
import numpy as np
from pipeline.backends.backend import Backend, Options, Session
from pipeline.backends.onnxruntime import ONNXRUNTIME_CPU


def open_engine(source, options):
    inner = ONNXRUNTIME_CPU.open(source, ONNXRUNTIME_CPU.options())
    run = lambda arrays: {name: value * np.float32(1.01) for name, value in inner.run(arrays).items()}
    return Session(run, bind=lambda arrays: lambda: run(arrays), facts={})


ENGINE = Backend("engine", "an engine of ONNX files with an error of 1 %", "onnx", "cpu", "", Options, lambda: None, open_engine)
"""


def install(folder: Path, name: str, code: str, entries: str) -> Path:
    """Install a distribution of one module into a folder, as pip would; return the folder."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entries)
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (entries,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    (code,) = re.findall(r'```python\n("""weighbridge_flat.*?)```', text, re.DOTALL)
    return install(tmp_path_factory.mktemp("site"), "weighbridge_flat", code, entries)


def weighbridge(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which the distributions of a folder are installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipeline.commands", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def configured(folder: Path, exports: str, backends: str, required: str) -> Path:
    file = folder / "simplenet.yaml"
    file.write_text(CONFIG.format(root=ROOT, exports=exports, backends=backends, required=required))
    return file


@pytest.fixture(scope="module")
def released(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a config, the folder of its releases, and what the export said: flat is the only format of the release."""
    folder = tmp_path_factory.mktemp("flat")
    config = configured(folder, "[flat]", "[eager, flat-numpy]", "flat-numpy")
    done = weighbridge(flat, "export", config, "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return config, folder / "out", done.stdout


def test_it_is_exported_proven_timed_and_what_it_cannot_do_is_said(released: tuple[Path, Path, str]) -> None:
    _, out, said = released
    assert re.search(r"export +flat +written: layers 2", said)
    assert re.search(r"audit +flat +not done: its format cannot be audited", said)
    assert re.search(r"parity +flat-numpy +pass", said)
    assert re.search(r"batch=1 +flat-numpy", said)
    release = out / "simplenet" / (out / "simplenet" / "latest").read_text().strip()
    manifest = json.loads((release / "manifest.json").read_bytes())
    assert [(each["name"], each["format"], each["path"]) for each in manifest["models"]] == [
        ("flat", "flat", "model.npz")
    ]
    assert manifest["tools"]["weighbridge_flat"] == "1"


def test_its_release_is_verified_predicted_and_reported_without_naming_the_backend(
    flat: Path, released: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, out, _ = released
    np.savez(tmp_path / "x.npz", x=np.ones((3, 10), np.float32))
    verified = weighbridge(flat, "verify", out / "simplenet")
    assert verified.returncode == 0, verified.stderr
    assert "flat-numpy" in verified.stdout
    predicted = weighbridge(flat, "predict", out / "simplenet", "--input", tmp_path / "x.npz", "--json")
    assert predicted.returncode == 0, predicted.stderr
    assert "logits" in predicted.stdout
    assert weighbridge(flat, "report", out / "simplenet").returncode == 0


def test_a_release_whose_format_nobody_here_knows_is_refused_with_a_clear_word(
    released: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, out, _ = released
    done = weighbridge(tmp_path, "predict", out / "simplenet", "--input", tmp_path / "x.npz")
    assert done.returncode == 4
    assert "no backend can run this release (it holds flat)" in done.stderr


def test_a_changed_backend_is_proven_again_and_a_wrong_one_does_not_ship_with_the_old_proof(
    flat: Path, released: tuple[Path, Path, str], tmp_path: Path
) -> None:
    config, out, _ = released
    code = (flat / "weighbridge_flat.py").read_text()
    assert "return {output: value}" in code
    zeros = install(
        tmp_path,
        "weighbridge_flat",
        code.replace("{output: value}", "{output: 0 * value}"),
        (flat / "weighbridge_flat-1.dist-info/entry_points.txt").read_text(),
    )
    done = weighbridge(zeros, "export", config, "--out", out, "--no-benchmark")
    assert done.returncode == 1, done.stdout
    assert "flat-numpy: output 'logits'" in done.stderr


def test_an_engine_is_explained_with_its_own_options_and_named_where_it_breaks(tmp_path: Path) -> None:
    entries = "[weighbridge.backends]\nengine = weighbridge_engine:ENGINE\n"
    site = install(tmp_path / "site", "weighbridge_engine", ENGINE, entries)
    config = configured(tmp_path, "[onnx]", "[eager, engine]", "engine")
    done = weighbridge(site, "parity", config, "--explain", "--json", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    (explanation,) = json.loads(done.stdout)["explanations"]
    rungs = {each["rung"]: each for each in explanation["ladder"]}
    assert list(rungs) == ["float64 eager", "float32 eager", "exported program", "engine"]
    assert explanation["broke"] == "engine"
    assert "logits" in rungs["engine"]["reason"]
    assert explanation["culprit"] is None
