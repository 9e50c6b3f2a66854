"""What a node sends takes its place here whole, signed here if it is to be, and says things as they are called here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import DigestError, GateError, InputError
from pipeline.fleet.ray import task
from pipeline.fleet.ray.deliver import Delivery
from pipeline.fleet.ray.travel import pack
from pipeline.release import arriving, bundle, signing
from pipeline.release.verify import check
from pipeline.run import export as exporting
from pipeline.run import keys
from pipeline.run.plan import Settings, plan
from tests.fleet import project


def copied(release, root, name):
    """Return a private copy of a release below the folder of its name."""
    place = root / name
    place.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(release, place / ".arriving"))


def test_a_release_that_arrives_lies_where_one_that_was_built_here_does(built, tmp_path):
    found = arriving.adopt(copied(built, tmp_path, "simplenet"), tmp_path / "simplenet")
    assert found == tmp_path / "simplenet" / built.name
    assert bundle.file_digests(found) == bundle.file_digests(built)
    assert (tmp_path / "simplenet/latest").read_text() == f"{built.name}\n"


def test_a_release_that_arrives_is_signed_here_as_if_it_had_been_built_here(built, tmp_path):
    key, public = signing.generate(tmp_path / "key")
    arrived = arriving.adopt(copied(built, tmp_path, "simplenet"), tmp_path / "simplenet", key)
    shutil.copytree(built.parent.parent, tmp_path / "here")
    here = exporting.export(Path("configs/simplenet.yaml"), Settings(out=tmp_path / "here", sign=key, benchmark=False))
    assert (arrived.name, bundle.file_digests(arrived)) == (here.release.name, bundle.file_digests(here.release))
    assert signing.check(arrived, public) == []


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_release_that_does_not_arrive_whole_is_none(built, tmp_path, name):
    arrived = copied(built, tmp_path, "simplenet")
    (arrived / name).write_bytes((arrived / name).read_bytes()[:-1])
    with pytest.raises(DigestError, match=r"what arrived of a release of simplenet is damaged"):
        arriving.adopt(arrived, tmp_path / "simplenet")
    assert not (tmp_path / "simplenet/latest").exists()


def test_a_release_of_another_name_is_not_taken_for_this_one(built, tmp_path):
    with pytest.raises(InputError, match="arrived as a release of other is simplenet"):
        arriving.adopt(copied(built, tmp_path, "other"), tmp_path / "other")


@pytest.mark.parametrize("name", ["../other/latest", "/etc/passwd", "a/../../b", ""])
def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path, name):
    settings = Settings(out=tmp_path)
    delivery = Delivery(plan(Path("configs/simplenet.yaml"), settings), settings, "")
    with pytest.raises(InputError, match="a node sent a file named"):
        delivery.add(task.Piece(name, b"x"))
    delivery.forget()
    assert list((tmp_path / "simplenet").iterdir()) == []


@pytest.fixture
def config(tmp_path, monkeypatch):
    config = project.written(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MYSEED", "5")
    monkeypatch.setenv("WEIGHBRIDGE_NODE_DIR", str(tmp_path / "node"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(task.__file__).parents[3])])
    )
    yield config
    if task._child is not None:
        task._child.end()
        task._child = None


def sent(config, settings, **changed):
    """Do a task in this process, as a worker of Ray's does; return what came of it and what it told."""
    planned = plan(config, settings)
    packed = pack(config, planned, settings)
    asked = {
        "trust": [],
        "overrides": list(settings.overrides),
        "rebuild": False,
        "benchmark": False,
        "reuse_timings": False,
        "max_bytes": None,
        "memory_bytes": 2 << 30,
        "expected": keys.of_release(planned, settings) | changed,
    }
    order = task.Order("net", packed, asked, None, keeps_release=True)
    delivery, told = Delivery(planned, settings, "not built before"), []
    for item in task.run(order, lambda digest: packed.here[digest].read_bytes()):
        if isinstance(item, task.Piece):
            delivery.add(item)
        elif isinstance(item, task.Line):
            told.append(item.event)
        else:
            return delivery.finish(item, packed), told
    raise AssertionError


@pytest.mark.slow
def test_a_task_gives_a_release_as_an_export_here_does_and_its_node_keeps_what_was_made(config, tmp_path):
    settings = Settings(out=Path("out"), benchmark=False)
    outcome, told = sent(config, settings)
    assert (outcome.up_to_date, outcome.why) == (False, "not built before")
    assert {each["stage"] for each in told if each["is_stage"]} >= {"export", "parity", "release"}
    assert check(outcome.release) == []
    assert exporting.export(config, settings).up_to_date  # it is as if it had been built here
    _, again = sent(config, Settings(out=Path("third"), benchmark=False))
    assert bundle.file_digests(next(Path("third/net").glob("*/manifest.json")).parent) == bundle.file_digests(
        outcome.release
    )
    assert {each["subject"] for each in again if each["status"] == "reused"} >= {"onnx", "onnxruntime-cpu"}
    assert [each.name for each in (tmp_path / "node/tasks").iterdir()] == []


def test_a_closed_gate_says_what_it_says_here_with_the_folders_of_here(config):
    settings = Settings(out=Path("out"), benchmark=False, overrides=("parity.limit=0.001",))
    error, _ = sent(config, settings)
    assert isinstance(error, GateError)
    assert "the report is in out/net/failed" in error.message
    assert (Path("out/net/failed/report/report.md")).is_file()
    assert error.about == "parity-fail"


def test_a_node_that_would_build_something_else_says_what_is_different(config):
    error, _ = sent(config, Settings(out=Path("out"), benchmark=False), **{"package torch": "9.9"})
    assert "this node would build something else" in error.message
    assert "package torch changed: 9.9 → " in error.message
    assert error.exit_code == 4


def test_what_a_private_directory_holds_goes_when_its_delivery_is_forgotten(config):
    settings = Settings(out=Path("out"), benchmark=False)
    delivery = Delivery(plan(config, settings), settings, "")
    delivery.add(task.Piece("run.json", b"{"))
    delivery.forget()
    assert list(Path("out/net").iterdir()) == []
