"""`weighbridge replay` with the installers themselves, interrupted at any moment, and with published versions (make sweep-replay).

What needs a package index skips where none can be reached; uv's part where uv is not on the PATH.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.release import bundle
from tests import pages, wheels
from tests.fleet import project

BOTH = ("weighbridge-engine==2, bystander==2", "weighbridge-engine==3, bystander==2")
HANGING = "import time; time.sleep(600)"


def command(*arguments):
    return [sys.executable, "-P", "-m", "pipeline.commands", *map(str, arguments)]


def run(variables, *arguments, code, cwd=None):
    done = subprocess.run(command(*arguments), env=variables, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def ground(tmp_path_factory, content):
    """A folder with version 1 installed, an index with others, and a release that was proven on version 1."""
    folder = tmp_path_factory.mktemp("ground")
    site = wheels.install(folder / "site", wheels.engine("1"))
    wheels.install(site, wheels.plain("bystander", "1"))
    wheels.install(site, wheels.plain("dependent", "1", "bystander<3"))
    index = folder / "index"
    wheels.serve(index, wheels.engine("2"))
    wheels.serve(index, wheels.engine("3", wheels.WRONG))
    wheels.serve(index, wheels.engine("4", opening=wheels.SEGFAULT))
    wheels.serve(index, wheels.engine("5", opening=HANGING))
    wheels.serve(index, wheels.plain("bystander", "2"))
    wheels.serve(index, wheels.plain("bystander", "3"))
    wheels.serve(index, wheels.plain("demanding", "1", "bystander==2"))
    stated = replace(content, manifest=wheels.manifest("engine"), models=content.models[:1])
    return site, index, bundle.write(stated, folder / "artifacts")


@pytest.fixture(params=["pip", "uv"])
def variables(request, ground):
    """Variables with which one installer is used, and an index that is a folder."""
    found = wheels.variables(ground[0], ground[1])
    if request.param == "pip":
        without_uv = [each for each in found["PATH"].split(os.pathsep) if not Path(each, "uv").exists()]
        return found | {"PATH": os.pathsep.join(without_uv)}
    if not shutil.which("uv"):
        pytest.skip("uv is not on the PATH")
    return found | {"UV_FIND_LINKS": str(ground[1]), "UV_NO_INDEX": "1", "UV_NO_CONFIG": "1"}


def kept(out):
    return [each for each in (out / ".cache" / "environments").glob("*") if len(each.name) == 64]


def test_both_installers_find_what_breaks_pass_what_does_not_and_touch_nothing(ground, variables, tmp_path):
    site, _, release = ground
    before = wheels.contents(site), wheels.contents(Path(sys.prefix) / "lib")
    asked = [word for each in BOTH for word in ("--with", each)]
    found = json.loads(run(variables, "replay", release, *asked, "--out", tmp_path, "--json", code=1).stdout)
    good, bad = found["candidates"]
    assert found["installer"] in {"pip", "uv"}
    assert [each["verdict"] for each in good["results"]] == ["holds", "holds"]
    verdicts = {each["backend"]: (each["verdict"], each["blame"]) for each in bad["results"]}
    assert verdicts == {
        "engine": ("would break", ["weighbridge-engine 1 → 3"]),
        "onnxruntime-cpu": ("holds", []),
    }
    assert {each["name"]: (each["here"], each["there"]) for each in bad["environment"]["changes"]} == {
        "weighbridge-engine": ("1", "3"),
        "bystander": ("1", "2"),
    }
    assert (wheels.contents(site), wheels.contents(Path(sys.prefix) / "lib")) == before
    again = json.loads(run(variables, "replay", release, *asked, "--out", tmp_path, "--json", code=1).stdout)
    assert all(each["environment"]["kept"] for each in again["candidates"])
    run(variables, "cache", "--prune", "--out", tmp_path, code=0)
    assert not kept(tmp_path)


@pytest.mark.parametrize(
    ("asked", "words", "fix"),
    [
        ("bystander==7", "bystander==7", "name a version that your index has"),
        ("demanding==1", "bystander==1", "name what has to change with it"),
    ],
)
def test_an_environment_that_cannot_be_made_says_why_in_the_installers_words_and_the_fix(
    ground, variables, tmp_path, asked, words, fix
):
    done = run(variables, "replay", ground[2], "--with", asked, "--out", tmp_path, code=4)
    assert f"an environment with {asked} cannot be made: " in done.stdout
    assert words in done.stdout
    assert fix in done.stdout
    assert not kept(tmp_path)


def test_what_is_not_named_stays_and_what_it_asks_for_no_longer_is_said(ground, variables, tmp_path):
    done = run(variables, "replay", ground[2], "--with", "bystander==3", "--out", tmp_path, code=0)
    assert "changed: bystander 1 → 3" in done.stdout
    assert "conflict: dependent 1 asks for bystander<3" in done.stdout
    assert "but 1 other distributions here ask for another version" in done.stdout


@pytest.mark.parametrize(("version", "words"), [("4", "SIGSEGV"), ("5", "did not finish 'open' within 5 s")])
def test_a_version_that_crashes_or_hangs_is_a_finding(ground, variables, tmp_path, version, words):
    asked = ["--with", f"weighbridge-engine=={version}", "--timeout", "5"]
    done = run(variables, "replay", ground[2], *asked, "--out", tmp_path, code=1)
    assert words in done.stdout
    assert f"to blame: weighbridge-engine 1 → {version}" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(3))
def test_one_that_is_stopped_at_any_moment_leaves_no_half_environment_and_no_process(
    ground, variables, tmp_path, number, seed
):
    mark = {"WEIGHBRIDGE_TEST_MARK": str(tmp_path)}
    asked = command("replay", ground[2], "--with", BOTH[0], "--out", tmp_path)
    process = subprocess.Popen(
        asked, env=variables | mark, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(random.Random(seed).uniform(0.5, 8.0))
    process.send_signal(number)
    code = process.wait(60)
    assert code in {-number if number == signal.SIGKILL else 128 + number, 0}
    deadline = time.monotonic() + 10
    while (left := marked(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    for each in kept(tmp_path):
        assert (each / "record.json").is_file()
    done = run(variables, "replay", ground[2], "--with", BOTH[0], "--out", tmp_path, code=0)
    assert "yes: " in done.stdout
    run(variables, "cache", "--prune", "--out", tmp_path, code=0)
    assert not list((tmp_path / ".cache" / "environments").glob(".tmp-*"))


def marked(value):
    """Return the processes whose environment holds the mark."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                held = (each / "environ").read_bytes()
            except OSError:
                continue
            if f"WEIGHBRIDGE_TEST_MARK={value}".encode() in held:
                found.append(each.name)
    return found


@pytest.fixture(scope="session")
def again(tmp_path_factory):
    """Two releases of a project and their configs, and an index with another version of what their networks use."""
    folder = tmp_path_factory.mktemp("again")
    site = wheels.install(folder / "site", wheels.plain("scaling", "1"))
    index = folder / "index"
    wheels.serve(index, wheels.plain("scaling", "2"))
    config = project.written(folder / "project")
    network = folder / "project/src/mynets/net.py"
    network.write_text(f"import scaling\n{network.read_text()}")
    other = config.with_name("other.yaml")
    other.write_text(config.read_text().replace("name: net", "name: other"))
    found = wheels.variables(site, index) | {"MYSEED": "1"}
    run(found, "export", config, other, "--no-benchmark", code=0, cwd=config.parents[1])
    return found, config.parents[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(3))
def test_one_that_is_stopped_while_it_exports_two_networks_leaves_no_process_and_the_next_run_no_folder(
    again, tmp_path, number, seed
):
    variables, folder = again
    configs = [word for name in ("net", "other") for word in ("--config", f"configs/{name}.yaml")]
    asked = ("replay", "artifacts/net", "artifacts/other", "--with", "scaling==2", *configs, "--jobs", "2")
    mark = {"WEIGHBRIDGE_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(
        command(*asked),
        env=variables | mark,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(random.Random(seed).uniform(1.0, 20.0))
    process.send_signal(number)
    assert process.wait(60) in {-number if number == signal.SIGKILL else 128 + number, 0}
    deadline = time.monotonic() + 15
    while (left := marked(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    done = run(variables, *asked, code=0, cwd=folder)
    assert "yes: with scaling==2 6 of 6 backends and exports hold" in done.stdout
    assert not list((folder / "artifacts/.cache/replays").iterdir())


def test_a_kept_environment_that_was_damaged_is_made_again(ground, variables, tmp_path):
    asked = ["replay", ground[2], "--with", "weighbridge-engine==2", "--out", tmp_path]
    run(variables, *asked, code=0)
    (only,) = kept(tmp_path)
    (only / "files" / "weighbridge_engine.py").write_text("raise SystemError")
    done = run(variables, *asked, code=0)
    assert "is damaged" in done.stderr


AVERAGING = '''
import torch
from torch import nn


class Averaging(nn.Module):
    """A convolution and an average pool whose last window hangs over the padded edge."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(image))
'''
CONFIG = """
name: averaging
model: {architecture: "averaging:Averaging", arguments: {channels: 4}, weights: averaging.pth}
inputs: {image: {dtype: float32, shape: [batch, 3, 8, 8]}}
dimensions: {batch: {min: 1, max: 8}}
outputs: [pooled]
exports: [torchscript, onnx]
backends: [eager, torchscript, onnxruntime-cpu]
"""


@pytest.mark.network
@pytest.mark.timeout(600)
def test_published_versions_that_differ_on_a_golden_case_are_told_from_those_that_do_not(tmp_path):
    """onnxruntime 1.20.1 divides by the wrong number in a window that hangs over the padded edge; 1.31.1 does not."""
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, "onnxruntime==1.20.1"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no index with onnxruntime 1.20.1 can be reached")
    (tmp_path / "averaging.py").write_text(AVERAGING)
    (tmp_path / "averaging.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    torch.save({f"conv.{name}": each for name, each in conv.state_dict().items()}, tmp_path / "averaging.pth")
    with_network = pages.environment(PYTHONPATH=f"{pages.ROOT}:{tmp_path}")
    exporting = ["export", "averaging.yaml", "--trust", "averaging", "--no-benchmark"]
    run(with_network, *exporting, code=0, cwd=tmp_path)
    asked = ["--with", "onnxruntime==1.20.1", "--with", "onnxruntime==1.31.1", "--json"]
    found = json.loads(run(with_network, "replay", "artifacts/averaging", *asked, code=1, cwd=tmp_path).stdout)
    assert found["may_upgrade"] == {"onnxruntime==1.20.1": False, "onnxruntime==1.31.1": True}
    broken = {each["backend"]: each["verdict"] for each in found["candidates"][0]["results"]}
    assert broken == {"onnxruntime-cpu": "would break", "torchscript": "holds"}
