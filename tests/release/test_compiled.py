"""Compiled packages of strangers: a real library that writes a file when it is loaded, and nothing here loads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from google.protobuf import text_format

from pipeline.errors import UnsafeError
from pipeline.release import bundle, signing
from pipeline.release.bundle import ModelFile
from pipeline.release.load import load_release
from pipeline.release.packages import package
from tests.formats.aotinductor import packages
from tests.release.test_packages import model_config  # noqa: F401 - a fixture

X = np.zeros((2, 4), np.float32)
PROVEN = {"backend": "aotinductor-cpu", "format": "aotinductor", "options": {}, "verdict": "pass"}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "loaded"


@pytest.fixture
def stranger(content, changed, marker, tmp_path):
    """A release, unsigned, whose fastest proven backend would load the library."""
    library = packages.hostile_library(tmp_path, marker)
    path = packages.package(tmp_path / "hostile.pt2", library=library)
    model = ModelFile("aotinductor", "aotinductor", "model.aoti.pt2", path, facts={"inputs": ["x"]})
    backends = {"aotinductor-cpu": PROVEN, **content.manifest["backends"]}
    told = changed(models=(model, *content.models), manifest={**content.manifest, "backends": backends})
    return bundle.write(told, tmp_path / "stranger")


def test_inspecting_one_says_what_it_is_and_does_not_load_it(stranger, marker, weighbridge):
    done = weighbridge("inspect", stranger / "model.aoti.pt2")
    assert "AOTInductor package" in done.out
    assert "machine code" in done.out
    assert not marker.exists()


def test_a_release_with_one_runs_on_something_else(stranger, marker, weighbridge):
    assert load_release(stranger).backend != "aotinductor-cpu"
    (stranger.parent / "x.json").write_text(json.dumps(X.tolist()))
    done = weighbridge("predict", stranger, "--input", stranger.parent / "x.json")
    assert done.code == 0, done.err
    assert not marker.exists()


def test_naming_its_backend_is_refused(stranger, marker, weighbridge):
    with pytest.raises(UnsafeError, match="machine code"):
        load_release(stranger, backend="aotinductor-cpu")
    done = weighbridge("verify", stranger, "--backend", "aotinductor-cpu")
    assert done.failed_with(3, "machine code", "--key")
    assert not marker.exists()


def test_verifying_leaves_it_out_and_says_so(stranger, marker, weighbridge):
    done = weighbridge("verify", stranger)
    assert done.code == 0, done.err
    assert "aotinductor-cpu did not run" in done.out + done.err
    assert not marker.exists()


def test_a_key_of_somebody_else_loads_nothing(stranger, marker, tmp_path):
    with pytest.raises(Exception, match="signed"):
        load_release(stranger, backend="aotinductor-cpu", key=signing.generate(tmp_path / "mine")[1])
    assert not marker.exists()


def test_one_in_the_place_of_another_model_is_told_from_it(content, changed, marker, tmp_path):
    path = packages.package(tmp_path / "hostile.pt2", library=packages.hostile_library(tmp_path, marker))
    models = tuple(
        ModelFile(each.name, each.format, each.name_in_release, path) if each.format == "torchscript" else each
        for each in content.models
    )
    release = bundle.write(changed(models=models), tmp_path / "swapped")
    with pytest.raises(Exception, match="it is an AOTInductor package"):
        load_release(release, backend="torchscript")
    assert not marker.exists()


def test_an_entry_that_is_no_part_of_a_model_is_refused_whatever_is_run(content, changed, tmp_path):
    path = packages.package(tmp_path / "hostile.pt2", more={"data/aotinductor/model/../../../../x.so": b"x"})
    model = ModelFile("aotinductor", "aotinductor", "model.aoti.pt2", path)
    release = bundle.write(changed(models=(*content.models, model)), tmp_path / "hostile")
    with pytest.raises(UnsafeError):
        load_release(release)


def test_triton_is_told_to_open_it_by_position_and_to_join_nothing(stranger, model_config, tmp_path):  # noqa: F811 - the fixture
    made = package(stranger, "triton", tmp_path / "repository")
    folder = made.path / "tiny-aotinductor"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config())
    assert (config.platform, config.max_batch_size) == ("torch_aoti", 0)
    assert [each.name for each in (*config.input, *config.output)] == ["INPUT__0", "OUTPUT__0", "OUTPUT__1"]
    assert [list(each.dims) for each in config.input] == [[-1, 4]]
    assert (folder / "1" / "model.pt2").is_file()
    assert any("Triton 26.05" in note for note in made.notes)
