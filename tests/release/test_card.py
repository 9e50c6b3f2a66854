"""The card of a release: read by the Hub, and its code runs as it stands where it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.release import card
from pipeline.release.packages import package

ROOT = Path(__file__).parents[2]
BLOCKS = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)


@pytest.fixture(params=["tiny", "simplenet"])
def any_release(request, pristine):
    return pristine if request.param == "tiny" else request.getfixturevalue("built")


def run(language, code, folder):
    """Run a block of code as somebody who pastes it would, in a folder; return what it printed."""
    python = Path(sys.executable).parent
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_of_code_runs_as_it_stands_in_the_folder_of_the_card(any_release, tmp_path):
    folder = Path(shutil.copytree(any_release, tmp_path / "a folder"))
    blocks = BLOCKS.findall((folder / "README.md").read_text())
    assert [language for language, _ in blocks] == ["python", "python", "sh"]
    with_us, without, verified = (run(*block, folder) for block in blocks)
    assert with_us.startswith("logits (1, ")
    assert without == with_us
    assert "ok: digests, golden cases on onnxruntime-cpu" in verified
    assert "weighbridge" not in blocks[1][1]


def test_the_code_of_the_hubs_card_runs_beside_the_release_below_it(pristine, tmp_path):
    folder = package(pristine, "huggingface", tmp_path / "hub").path
    blocks = BLOCKS.findall((folder / "README.md").read_text())
    assert len([run(*block, folder) for block in blocks]) == 3


def test_arrays_in_the_code_have_sizes_and_values_that_are_declared(content):
    dimensions = {
        "past": {"min": 0, "max": 8, "multiple_of": 1},
        "new": {"min": 2, "max": 8, "multiple_of": 2},
        "total": {"min": 2, "max": 16, "multiple_of": 1, "formula": "past + new"},
    }
    inputs = [
        {"name": "past.0.key", "dtype": "float32", "shape": ["past", 4], "low": None, "high": None},
        {"name": "ids", "dtype": "int64", "shape": [1, "total"], "low": 5, "high": 9},
    ]
    manifest = {**content.manifest, "name": "tiny", "models": [{"format": "onnx", "path": "m.onnx"}]}
    text = card.card({**manifest, "dimensions": dimensions, "inputs": inputs}).decode()
    assert '"past.0.key": np.zeros((1, 4), dtype="float32"),' in text
    assert '"ids": np.full((1, 3), 5, dtype="int64"),' in text


def test_units_and_names_of_classes_are_in_the_card_where_they_are_known(content):
    plain = {**content.manifest, "name": "tiny", "models": []}
    assert "unit" not in card.card(plain).decode()
    logits, best = plain["outputs"]
    inputs = [{**plain["inputs"][0], "unit": "RGB | 0 to 1"}]
    told = {**plain, "inputs": inputs, "outputs": [{**logits, "labels": ["cat", "dog", "cow"]}, best]}
    text = card.card(told).decode()
    assert "| `x` | input | float32 | [batch, 4] | RGB \\| 0 to 1 |" in text
    assert "The 3 classes of `logits`, in the order of its last axis: cat, dog, cow." in text
    many = {**told, "outputs": [{**logits, "labels": [f"class {index}" for index in range(1000)]}, best]}
    assert "class 19, … class 999 (all in manifest.json)" in card.card(many).decode()


def test_the_card_is_read_by_the_hub(any_release):
    read = ModelCard.load(any_release / "README.md")
    assert read.data.library_name == "onnx"
    assert {"onnx", "torchscript"} <= set(read.data.tags)
    assert read.data.license in {"mit", "apache-2.0"}
    assert "| `x` | input | float32 | [batch, " in read.text
    assert "| onnxruntime-cpu | pass |" in read.text


def test_a_licence_the_hub_does_not_know_is_named(content, tmp_path):
    release = {"license": "LicenseRef-Ours", "datasets": ["a: b"], "description": None}
    manifest = {**content.manifest, "config": {"release": release}, "name": "tiny", "models": []}
    (tmp_path / "README.md").write_bytes(card.card(manifest))
    read = ModelCard.load(tmp_path / "README.md")
    assert (read.data.license, read.data.license_name, read.data.datasets) == ("other", "LicenseRef-Ours", ["a: b"])


def test_the_card_names_no_format_that_the_release_lacks(content):
    models = [{"format": "torchscript", "path": "model.torchscript"}]
    text = card.card({**content.manifest, "name": "tiny", "models": models}).decode()
    assert "libtorch opens `model.torchscript` as it is." in text
    assert "onnx" not in text.partition("## Proven")[0].replace("onnxruntime", "")
