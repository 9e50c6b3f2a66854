"""Every page that shows commands does what it says: they are run in their order, and still say what is shown under them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.pages import ROOT, Command

README = ROOT / "README.md"
# tests/test_plugin.py runs docs/i-add-a-backend.md, with the distributions that it shows installed; tests/sweeps/replay.py what docs/replay.md shows.
ALONE = ("i-have-a-pth.md", "i-release-models.md")
ELSEWHERE = ("i-add-a-backend.md", "replay.md")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout in which nothing was exported, and no timing takes long; `make` runs what is installed."""
    folder, venv = tmp_path / "weighbridge", Path(sys.prefix)
    if not (venv / "installed").exists():
        pytest.skip("needs the .venv that `make setup` makes")
    left_out = shutil.ignore_patterns(".venv*", ".git", "artifacts", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=left_out)
    for each in [*venv.iterdir(), *(venv / "bin").iterdir()]:
        if each.name != "bin":
            link = folder / ".venv" / each.relative_to(venv)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(each)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))  # make installs anew where these are younger than what is installed
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "weights").symlink_to(ROOT / "artifacts" / "weights")
    for config in (folder / "configs").glob("*.yaml"):
        config.write_text(pages.quickened(config.read_text("utf-8")), "utf-8")
    # None of this one's output is shown.
    silero = folder / "configs" / "silero-vad.yaml"
    text = silero.read_text("utf-8").replace("reference: eager", "reference: onnxruntime-cpu")
    silero.write_text(re.sub(r"(?m)^(backends|require|exports): .*", _with_onnx_alone, text), "utf-8")
    return folder


def _with_onnx_alone(line: re.Match[str]) -> str:
    return f"{line[1]}: [{'onnx' if line[1] == 'exports' else 'onnxruntime-cpu'}]"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(checkout: Path, serving: dict[str, str]) -> None:
    wrong = pages.follow(README, checkout, serving)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ALONE)
def test_a_page_does_what_it_says_in_an_empty_folder_beside_the_checkout(
    page: str, tmp_path: Path, serving: dict[str, str]
) -> None:
    (tmp_path / "weighbridge").symlink_to(ROOT)
    (tmp_path / "mine").mkdir()
    wrong = pages.follow(ROOT / "docs" / page, tmp_path / "mine", serving)
    assert not wrong, "\n\n".join(wrong)


def test_no_page_shows_commands_that_nobody_runs() -> None:
    showing = {
        page.name for page in ROOT.glob("docs/*.md") if any(isinstance(each, Command) for each in pages.steps(page))
    }
    assert showing == {*ALONE, *ELSEWHERE}
    assert len([each for each in pages.steps(README) if isinstance(each, Command)]) >= 8


def test_links_between_pages_lead_somewhere() -> None:
    links = [
        (page, target)
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    ]
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []
