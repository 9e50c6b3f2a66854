"""What travels is what a config needs, laid out so that it is found, and nothing becomes trusted by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DigestError, InputError, UnavailableError, UnsafeError
from pipeline.fleet.ray import travel
from pipeline.run import keys
from pipeline.run.plan import Settings, plan
from tests.fleet import project


@pytest.fixture
def config(tmp_path, monkeypatch):
    config = project.written(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MYSEED", "5")
    return config


def packed(config, **settings):
    given = Settings(out=Path("out"), **settings)
    return travel.pack(config, plan(config, given), given)


def reading(found):
    return lambda digest: found.here[digest].read_bytes()


def test_a_config_travels_with_what_it_extends_and_names_and_its_code_and_with_nothing_else(config):
    found = packed(config)
    code = {f"src/mynets/{name}.py" for name in ("__init__", "helper", "net")}
    named = {"base/base.yaml", "configs/net.yaml", "data/labels.txt", "data/README.txt", "data/net.pth"}
    assert found.files.keys() == named | code | {"pyproject.toml"}
    assert (found.config, found.directory, found.variables) == ("configs/net.yaml", ".", {"MYSEED": "5"})
    assert found.folders == ()  # src is found from the working directory, there as here


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize("path", ["configs/net.yaml", "configs/../configs/net.yaml"])
def test_a_config_is_planned_elsewhere_as_it_is_here(tmp_path, monkeypatch, path):
    settings = Settings(out=Path("out"), overrides=("samples=null",))
    here = keys.of_release(plan(Path(path), settings), settings)
    found = packed(Path(path))
    travel.unpack(found, tmp_path / "there", tmp_path / "cache", reading(found))
    monkeypatch.chdir(tmp_path / "there")
    assert keys.of_release(plan(tmp_path / "there" / found.config, settings), settings) == here


def test_code_that_travelled_is_refused_where_its_owner_did_not_trust_it(config, tmp_path, monkeypatch):
    (tmp_path / "here/pyproject.toml").unlink()
    found = packed(config, trust=("mynets",))
    travel.unpack(found, tmp_path / "there", tmp_path / "cache", reading(found))
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(UnsafeError, match=r"mynets\.net is not trusted"):
        plan(tmp_path / "there" / found.config, Settings(out=Path("out")))


def test_code_that_the_working_directory_does_not_tell_travels_with_the_folder_it_is_imported_from(
    config, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here/src/mynets").rename(tmp_path / "elsewhere/mynets")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    found = packed(config)
    assert found.folders == ("elsewhere",)
    assert {"elsewhere/mynets/net.py", "here/configs/net.yaml"} <= found.files.keys()
    assert found.directory == "here"


def test_a_file_that_is_named_by_its_absolute_path_must_be_on_the_node(config, tmp_path):
    labels = tmp_path / "here/data/labels.txt"
    found = packed(config, overrides=(f"describe.y.labels={labels}",))
    assert found.absolute == {str(labels): found.files["data/labels.txt"]}
    travel.require_absolute(found)  # a file system that both see
    labels.write_text("x\ny\nz\n")
    with pytest.raises(UnavailableError, match=r"labels\.txt by its absolute path, and this node has another file"):
        travel.require_absolute(found)
    labels.unlink()
    with pytest.raises(UnavailableError, match="there is no such file on this node") as caught:
        travel.require_absolute(found)
    assert "relative to the config" in caught.value.hint


def test_what_arrives_changed_is_refused_and_so_is_a_name_that_leads_out(config, tmp_path):
    found = packed(config)
    with pytest.raises(DigestError, match="did not arrive as it was sent"):
        travel.unpack(found, tmp_path / "there", tmp_path / "cache", lambda _: b"something else")
    out = replace(found, files={"../out.txt": next(iter(found.here))})
    with pytest.raises(InputError, match="outside of what travels"):
        travel.unpack(out, tmp_path / "there", tmp_path / "cache", reading(found))
    assert not (tmp_path / "out.txt").exists()


def test_fetched_weights_go_into_the_cache_of_the_node_and_are_not_written_twice(config, tmp_path):
    found = packed(config)
    digest = found.files["data/net.pth"]
    fetched = replace(found, files={}, fetched={f"weights/{digest}/net.pth": digest})
    travel.unpack(fetched, tmp_path / "there", tmp_path / "cache", reading(found))
    place = tmp_path / "cache/weights" / digest / "net.pth"
    first = place.stat().st_ino
    travel.unpack(fetched, tmp_path / "there", tmp_path / "cache", reading(found))
    assert place.stat().st_ino == first
    place.write_bytes(b"damaged")
    travel.unpack(fetched, tmp_path / "there", tmp_path / "cache", reading(found))
    assert place.read_bytes() == (tmp_path / "here/data/net.pth").read_bytes()
