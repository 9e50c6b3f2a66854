"""Every command of the README is run, in its order, in a copy of the checkout; its output must still say what it shows."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.compile(r"```console\n(.*?)```", re.DOTALL)
# `make test` is what runs this test; `make setup` and the rest of an installation happened before it.
NOT_HERE = ("make test", "git clone", "python3 -m venv", "pip install", "source ")


def commands():
    """Return each command of the README with the output shown under it."""
    found = []
    for block in BLOCKS.findall((ROOT / "README.md").read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


def landmarks(shown):
    """Return what must stay the same in an output: its words, without figures, digests and layout."""
    return {word for word in re.findall(r"[A-Za-z][A-Za-z-]{3,}", shown) if not re.fullmatch(r"[0-9a-f]{6,}", word)}


def _without_torch(line: re.Match[str]) -> str:
    return f"{line[1]}: [{'onnx' if line[1] == 'exports' else 'onnxruntime-cpu'}]"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(tmp_path):
    venv = ROOT / ".venv"
    if not (venv / "installed").exists():
        pytest.skip("needs the .venv that `make setup` makes")
    checkout = tmp_path / "weighbridge"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".venv*", ".git", "artifacts", ".*_cache", "*.egg-info")
    )
    (checkout / ".venv").symlink_to(venv)
    (checkout / "artifacts").mkdir()
    (checkout / "artifacts" / "weights").symlink_to(ROOT / "artifacts" / "weights")
    for config in (checkout / "configs").glob("*.yaml"):  # what is shown here does not depend on how long was timed
        config.write_text(re.sub(r"seconds: \d+", "seconds: 4", config.read_text()))
    silero = (
        checkout / "configs" / "silero-vad.yaml"
    )  # nor is it of this one, of which each process that is timed would import torch
    silero.write_text(
        re.sub(
            r"(?m)^(backends|require|exports): .*",
            _without_torch,
            silero.read_text().replace("reference: eager", "reference: onnxruntime-cpu"),
        )
    )
    environment = os.environ | {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    wrong = []
    for command, shown in commands():
        if command.startswith(NOT_HERE):
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        should_fail = "error:" in shown or "can't find" in shown
        if (done.returncode != 0) != should_fail:
            wrong.append(f"{command}: exit {done.returncode}\n{output}")
        missing = landmarks(shown) - landmarks(output) - VERDICTS
        if missing:
            wrong.append(f"{command}: the README shows {sorted(missing)}, the output is\n{output}")
    assert not wrong, "\n\n".join(wrong)


# Which verdict a timing comes to depends on the machine.
VERDICTS = {"faster", "slower", "same", "undecided"}


def test_the_readme_shows_commands():
    assert len(commands()) >= 11
