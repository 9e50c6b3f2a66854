"""A release's network and its export are tried under other versions too: what changes the network's numbers is told from what it can be exported with."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import wheels
from tests.fleet import project

SCALED = project.NETWORK.replace("import torch\n", "import torch\nimport scaling\n", 1).replace(
    "self.fc(x)", "self.fc(x) * scaling.FACTOR"
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A project whose network uses another distribution, its release, and an index with other versions of that."""
    folder = tmp_path_factory.mktemp("again")
    site = wheels.install(folder / "site", wheels.plain("scaling", "1", code="FACTOR = 2.0\n"))
    index = folder / "index"
    wheels.serve(index, wheels.plain("scaling", "2", code="FACTOR = 2.02\n"))
    wheels.serve(index, wheels.plain("scaling", "3", code="raise RuntimeError('no such processor')\n"))
    config = project.written(folder / "project")
    (folder / "project/src/mynets/net.py").write_text(SCALED)
    ground = (site, index, config)
    done = run(ground, "export", config, "--no-benchmark")
    assert done.returncode == 0, done.stderr
    return ground


def run(ground, *arguments):
    site, index, config = ground
    return subprocess.run(
        [sys.executable, "-P", "-c", wheels.UNZIPPING, str(index), *map(str, arguments)],
        env=wheels.variables(site, index) | {"MYSEED": "1"},
        cwd=config.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def replayed(ground):
    asked = [word for version in (2, 3) for word in ("--with", f"scaling=={version}")]
    done = run(ground, "replay", "artifacts/net", *asked, "--config", ground[2], "--json")
    assert done.returncode == 1, done.stderr
    place = ground[2].parents[1] / "artifacts"
    return [
        {each["backend"]: each for each in candidate["results"]} for candidate in json.loads(done.stdout)["candidates"]
    ], [each.name for each in (place / ".cache" / "replays").iterdir()]


def test_a_version_that_changes_the_networks_numbers_is_found_though_its_files_hold_and_it_can_be_exported(replayed):
    found = replayed[0][0]
    assert {name: each["verdict"] for name, each in found.items()} == {
        "eager": "would break",
        "onnxruntime-cpu": "holds",
        "export": "holds",
    }
    worst = found["eager"]["then"]["findings"][0]
    assert (found["eager"]["blame"], worst["output"], worst["factor"] > 100) == (["scaling 1 → 2"], "y", True)


def test_one_that_the_network_cannot_be_built_with_breaks_its_export_and_says_why(replayed):
    found = replayed[0][1]
    assert {name: each["verdict"] for name, each in found.items()} == {
        "eager": "would break",
        "onnxruntime-cpu": "holds",
        "export": "would break",
    }
    assert "no such processor" in found["export"]["then"]["findings"][0]["reason"]


def test_nothing_is_left_of_what_was_exported_and_the_release_is_as_it_was(ground, replayed):
    assert replayed[1] == []
    assert run(ground, "verify", "artifacts/net").returncode == 0


def test_a_config_of_another_network_and_one_that_has_changed_are_refused(ground):
    config = ground[2]
    other = config.with_name("other.yaml")
    other.write_text(config.read_text().replace("name: net", "name: other"))
    changed = config.with_name("changed.yaml")
    changed.write_text(config.read_text().replace("seed: ", "limit: 9, seed: "))
    for path, words in ((other, "none of these releases is of that name"), (changed, "is not made of what")):
        done = run(ground, "replay", "artifacts/net", "--with", "scaling==2", "--config", path)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
