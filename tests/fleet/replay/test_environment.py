"""An environment differs by what was asked for and by nothing else, and is kept under what it holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.errors import UnavailableError
from pipeline.fleet.replay import environment
from pipeline.fleet.replay.environment import Maker, conflicts, environments, installed
from pipeline.fleet.replay.requirements import candidate
from pipeline.fleet.replay.trial import Limits, look
from pipeline.worker.process import LocalRunner
from tests import wheels


@pytest.fixture
def maker(tmp_path):
    wheels.serve(tmp_path / "index", wheels.plain("bystander", "2"))
    return Maker(environments(tmp_path), wheels.Unzip(tmp_path / "index"), lambda _: None)


def test_everything_that_is_not_named_is_held_at_its_version():
    held = list(environment._stay({"numpy": "2.4", "torch": "2.13.0+cpu", "weighbridge": "0.1"}, candidate("numpy")))
    assert held == ["torch==2.13.0+cpu"]
    assert installed()["numpy"]


def test_what_was_made_is_used_again_and_another_file_of_the_same_version_is_not(maker, tmp_path):
    first = maker.make(candidate("bystander==2"))
    again = maker.make(candidate("bystander==2"))
    assert (first.is_kept, again.is_kept) == (False, True)
    assert first.folder == again.folder
    assert (first.changes[0].here, first.changes[0].there) == (None, "2")
    wheels.serve(tmp_path / "index", wheels.plain("bystander", "2") | {"more.py": "X = 1\n"})
    other = maker.make(candidate("bystander==2"))
    assert not other.is_kept
    assert other.folder != first.folder


def test_one_whose_installation_fails_half_way_is_never_there(maker, monkeypatch):
    def half(self, found, folder, say):
        del self, found, say
        (folder / "bystander.py").write_text("VERSION = '2'\n")
        raise UnavailableError("no space", hint="free some")

    with monkeypatch.context() as patched:
        patched.setattr(wheels.Unzip, "install", half)
        with pytest.raises(UnavailableError, match="no space"):
            maker.make(candidate("bystander==2"))
    assert not [each for each in maker.cache.root.iterdir() if each.name not in {"locks", ".in-use"}]
    assert not maker.make(candidate("bystander==2")).is_kept


def test_what_others_ask_for_and_is_not_so_any_more_is_said(tmp_path, monkeypatch):
    wheels.install(tmp_path / "here", wheels.plain("dependent", "1", "bystander<2", "numpy>=0.1"))
    wheels.install(tmp_path / "there", wheels.plain("bystander", "2"))
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    changes = [environment.Change("bystander", "1", "2")]
    assert list(conflicts(tmp_path / "there", changes)) == ["dependent 1 asks for bystander<2"]
    assert not list(conflicts(tmp_path / "there", [environment.Change("bystander", "1", "1.5")]))


def test_a_folder_stands_before_what_is_installed_and_before_the_working_directory(tmp_path, monkeypatch):
    info = {"METADATA": "Metadata-Version: 2.1\nName: onnx\nVersion: 0.0.9\n"}
    wheels.install(tmp_path / "above", {f"onnx-0.0.9.dist-info/{name}": text for name, text in info.items()})
    wheels.install(tmp_path / "cwd", {"onnx/__init__.py": "raise SystemError", "pydantic.py": "raise SystemError"})
    monkeypatch.chdir(tmp_path / "cwd")
    found = look([], LocalRunner(above=(str(tmp_path / "above"),)), {"onnx": "0.0.9"}, Limits(1, 60.0))
    assert found.versions == {"onnx": "0.0.9"}


def test_the_command_line_says_its_help_without_what_replays():
    code = "import sys; from pipeline.commands import app; print([each for each in sys.modules if each.startswith('pipeline.fleet')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
