"""Distributions with a backend and a format of their own, as docs/i-add-a-backend.md shows them, go all the way without a change of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import pages
from tests.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

PAGE = ROOT / "docs" / "i-add-a-backend.md"
GIVEN = {each.name: each.text for each in pages.steps(PAGE) if isinstance(each, pages.File)}


def install(site: Path, name: str, code: str | None = None) -> Path:
    """Install a distribution of the page into a folder, as pip would, with its code or another; return the folder."""
    project = tomllib.loads(GIVEN[f"{name}/pyproject.toml"])["project"]
    module, version = project["name"], project["version"]
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(code or GIVEN[f"{name}/{module}.py"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
    groups = [
        (f"[{group}]", *(f"{key} = {value}" for key, value in each.items()))
        for group, each in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
    return site


@pytest.fixture
def weighbridge(serving: dict[str, str]) -> Run:
    """Run a command in a process in which the distributions of a folder are installed."""

    def run(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["weighbridge", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=having(site, serving), capture_output=True, text=True, check=False)

    return run


def having(site: Path, variables: dict[str, str]) -> dict[str, str]:
    """Return variables with which the distributions of a folder are installed."""
    return variables | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    return install(install(folder, "engine"), "flat")


@pytest.fixture(scope="module")
def followed(site: Path, once: Callable[..., Path], serving: dict[str, str]) -> tuple[Path, list[str]]:
    """Return the folder in which the page's commands were run, and what was not as it shows."""

    def follow(folder: Path) -> None:
        (folder / "weighbridge").symlink_to(ROOT)
        (folder / "mine").mkdir()
        wrong = pages.follow(PAGE, folder / "mine", having(site, serving))
        (folder / "wrong.json").write_text(json.dumps(wrong))

    folder = once("plugin", follow)
    return folder / "mine", json.loads((folder / "wrong.json").read_text())


@pytest.mark.timeout(600)
def test_the_page_does_what_it_says(followed: tuple[Path, list[str]]) -> None:
    _, wrong = followed
    assert not wrong, "\n\n".join(wrong)


def test_it_is_exported_proven_timed_and_what_it_cannot_do_is_said(
    site: Path, followed: tuple[Path, list[str]], weighbridge: Run
) -> None:
    out = followed[0] / "artifacts"
    said = weighbridge(site, "report", out / "simplenet").stdout
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


def test_a_release_whose_format_nobody_here_knows_is_refused_with_a_clear_word(
    followed: tuple[Path, list[str]], tmp_path: Path, weighbridge: Run
) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 10), np.float32))
    done = weighbridge(tmp_path, "predict", followed[0] / "artifacts/simplenet", "--input", tmp_path / "x.npz")
    assert done.returncode == 4
    assert "no backend can run this release (it holds flat)" in done.stderr


def test_a_changed_backend_is_proven_again_and_a_wrong_one_does_not_ship_with_the_old_proof(
    followed: tuple[Path, list[str]], tmp_path: Path, weighbridge: Run
) -> None:
    code = GIVEN["flat/weighbridge_flat.py"]
    assert "return {output: value}" in code
    zeros = install(tmp_path, "flat", code.replace("{output: value}", "{output: 0 * value}"))
    folder, _ = followed
    done = weighbridge(zeros, "export", folder / "flat.yaml", "--out", folder / "artifacts", "--no-benchmark")
    assert done.returncode == 1, done.stdout
    assert "flat-numpy: output 'logits'" in done.stderr


def test_an_engine_that_is_off_by_a_hundredth_is_named_as_what_breaks(
    followed: tuple[Path, list[str]], tmp_path: Path, weighbridge: Run
) -> None:
    code, exact = GIVEN["engine/weighbridge_engine.py"], "evaluator.run(None, dict(arrays))"
    assert exact in code
    wrong = install(tmp_path, "engine", code.replace(exact, f"[each * each.dtype.type(1.01) for each in {exact}]"))
    folder, _ = followed
    config = folder / "engine.yaml"
    done = weighbridge(wrong, "parity", config, "--explain", "--json", "--out", folder / "artifacts")
    assert done.returncode == 1, done.stderr
    (explanation,) = json.loads(done.stdout)["explanations"]
    rungs = {each["rung"]: each for each in explanation["ladder"]}
    assert list(rungs) == ["float64 eager", "float32 eager", "exported program", "engine"]
    assert explanation["broke"] == "engine"
    assert "logits" in rungs["engine"]["reason"]
    assert explanation["culprit"] is None
