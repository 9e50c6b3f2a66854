"""An export on a cluster of one node that is started here; `make test-ray` has Ray, and without it these skip."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.release.signing import generate
from tests.fleet import project

pytest.importorskip("ray", reason="needs the extra `ray`: make test-ray")

ROOT = str(Path(__file__).parents[3])


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYSEED", "5")
    monkeypatch.setenv("WEIGHBRIDGE_NODE_DIR", str(tmp_path / "node"))
    monkeypatch.setenv("PYTHONPATH", ROOT)
    config = project.written(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return config


def command(*words, on="ray"):
    start = [sys.executable, "-m", "pipeline.commands", "export"]
    return [*start, *words, "--on", on, "--no-benchmark", "--out", "out"]


@contextmanager
def head(folder):
    """Start the head of a cluster as a user does, with a token; yield its address and its processes."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    options = ["--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", str(folder / "ray"), "--block"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--port", str(port), *options],
        env=os.environ | {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    told = ""
    for line in process.stdout:
        told += line
        if "terminate the Ray runtime" in line:
            break
    started = psutil.Process(process.pid).children(recursive=True)
    try:
        yield re.search(r"ray start --address='([0-9.:]+)'", told)[1], started
    finally:
        for each in [psutil.Process(process.pid), *started]:
            with suppress(psutil.Error):
                each.kill()
        process.communicate()


def children(folder):
    """Return processes of exports on the node whose folder this is."""
    found = []
    for each in psutil.process_iter(["cmdline"]):
        try:
            if "pipeline." in " ".join(each.cmdline()) and each.environ().get("WEIGHBRIDGE_NODE_DIR") == str(folder):
                found.append(each)
        except psutil.Error:
            continue
    return found


def test_stdout_is_one_document_and_ray_says_nothing(config):
    wrong = config.with_name("wrong.yaml")
    wrong.write_text("extends: net.yaml\nname: wrong\nexports: [onxx]\n")
    ended = subprocess.run(
        command("configs/*.yaml", "--json", "--log-json"), capture_output=True, text=True, check=False
    )
    runs = {each["config"]: each for each in json.loads(ended.stdout)["runs"]}
    assert {name: each["exit_code"] for name, each in runs.items()} == {"configs/net.yaml": 0, "configs/wrong.yaml": 2}
    assert ended.returncode == 2
    assert all(line.startswith("{") for line in ended.stderr.splitlines()), ended.stderr
    again = subprocess.run(command("configs/net.yaml"), capture_output=True, text=True, check=True)
    assert again.stdout.startswith("up to date: out/net/")
    assert again.stderr == ""  # and no cluster was started for it


def exported(*words):
    ended = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads((Path("out") / "net" / "run.json").read_text())


def test_a_node_takes_from_the_shared_cache_what_another_one_has_built_and_the_bytes_are_the_same(
    config, tmp_path, monkeypatch
):
    del config
    key, _ = generate(tmp_path / "key")
    shared = ("configs/net.yaml", "--cache", f"file://{tmp_path}/cache", "--cache-key", str(key))
    made = exported(*shared)
    first = Path("out").rename("first")
    monkeypatch.setenv("WEIGHBRIDGE_NODE_DIR", str(tmp_path / "other"))
    taken = exported(*shared)
    built = {
        (each["stage"], each["step"]): each["status"] for each in made["steps"] if each["step"] in {"onnx", "eager"}
    }
    found = {
        (each["stage"], each["step"]): each["status"] for each in taken["steps"] if each["step"] in {"onnx", "eager"}
    }
    assert set(built.values()) == {"ended"}
    assert found["export", "onnx"] == "reused"
    assert taken["release"] == made["release"]
    same = [each.name for each in (first / "net" / made["release"]).iterdir() if each.is_file()]
    for name in same:
        assert (first / "net" / made["release"] / name).read_bytes() == Path(
            "out/net", made["release"], name
        ).read_bytes(), name
    alone = exported("configs/net.yaml", "--rebuild")  # of nobody's making: a shared cache is used where it is named
    assert {each["status"] for each in alone["steps"] if each["step"] == "onnx"} == {"ended"}


def test_weights_that_come_from_an_address_are_fetched_here_and_travel(config):
    weights = Path("data/net.pth").rename(Path("elsewhere.pth")).absolute()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    model = f'model: {{weights: "file://{weights}", sha256: {digest}, architecture: "mynets.net:Net"}}\n'
    config.write_text(model + config.read_text())
    found = exported("configs/net.yaml")
    manifest = json.loads(Path("out/net", found["release"], "manifest.json").read_text())
    assert manifest["weights"]["sha256"] == digest


def test_a_cluster_that_wants_a_token_is_joined_with_it_and_without_it_the_error_says_what_to_do(
    config, tmp_path_factory, monkeypatch
):
    del config
    home = tmp_path_factory.mktemp("h")
    with head(home) as (address, _):
        monkeypatch.setenv("HOME", str(home))
        asked = command("configs/net.yaml", on=f"ray://{address}")
        refused = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (refused.returncode, "wants a token" in refused.stderr) == (4, True), refused.stderr
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        joined = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert joined.returncode == 0, joined.stderr


def test_a_cluster_whose_head_dies_is_an_error_of_ours_before_ray_ends_the_process(
    config, tmp_path_factory, monkeypatch
):
    del config
    home = tmp_path_factory.mktemp("h")
    with head(home) as (address, started):
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        asked = command("configs/net.yaml", "--log-json", on=f"ray://{address}")
        with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if '"stage": "export"' in line:
                    break
            for each in started:
                if "gcs_server" in each.name():
                    each.kill()
            told = process.stderr.read()
        assert (process.returncode, "head has not answered" in told) == (4, True), told
        assert not list(Path("out/net").glob(".tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_whoever_stops_a_run_ends_all_of_it(config, tmp_path, number, code):
    del config
    with subprocess.Popen(command("configs/net.yaml", "--log-json"), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if '"stage": "export"' in line:
                break
        assert children(tmp_path / "node") != []
        process.send_signal(number)
        process.stderr.read()
    assert process.returncode == code
    until_s = time.monotonic() + 30
    while (left := children(tmp_path / "node")) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert left == []
    assert not (tmp_path / "here/out/net/latest").exists()
