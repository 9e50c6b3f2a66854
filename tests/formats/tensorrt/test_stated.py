"""An engine is not handed to TensorRT before its neighbour says that it was built for what is here."""

import json

import pytest

from pipeline.errors import UnavailableError, UnsafeError
from pipeline.formats.format import Options
from pipeline.formats.table import formats
from pipeline.formats.tensorrt import here, stated
from pipeline.formats.tensorrt.record import TENSORRT

HERE = {"tensorrt": "11.4.0", "device": "NVIDIA H100; CUDA 13000; driver 580.1"}


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.plan"
    path.write_bytes(b"a plan")
    stated.write(path, HERE)
    return path


def test_it_is_opened_where_it_was_built(engine):
    assert stated.require_here(engine, HERE)["device"] == HERE["device"]
    TENSORRT.require_safe(engine, ["model.plan", "model.plan.json"])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tensorrt": "11.5.0"}, r"built for tensorrt 11\.4\.0, and here is 11\.5\.0"),
        ({"device": "NVIDIA L4; CUDA 13000; driver 580.1"}, "built for device NVIDIA H100.*here is NVIDIA L4"),
        ({"device": "NVIDIA H100; CUDA 13000; driver 590.2"}, r"driver 580\.1, and here is .*driver 590\.2"),
        ({"device": ""}, "here is none"),
    ],
)
def test_another_gpu_driver_or_tensorrt_is_refused_with_both_named(engine, other, words):
    with pytest.raises(UnavailableError, match=words) as caught:
        stated.require_here(engine, {**HERE, **other})
    assert "export it again" in caught.value.hint


def test_an_engine_that_nothing_is_said_of_or_something_of_another_is_refused(engine):
    engine.write_bytes(b"b plan")
    with pytest.raises(UnsafeError, match=r"is not the file that model\.plan\.json was written for"):
        stated.require_here(engine, HERE)
    for text in ("{}", "[]", '{"sha256": 1}', json.dumps(HERE), "{"):
        stated.beside(engine).write_text(text)
        with pytest.raises(UnsafeError):
            TENSORRT.require_safe(engine, [])
    stated.beside(engine).unlink()
    with pytest.raises(UnsafeError, match="does not say what it was built for"):
        stated.read(engine)


def test_the_record_says_what_an_engine_is():
    assert formats()["tensorrt"] is TENSORRT
    assert TENSORRT.is_native
    assert TENSORRT.varies
    assert (TENSORRT.export, TENSORRT.derived_from) == (None, "onnx")
    assert issubclass(TENSORRT.options, Options)


def test_it_says_why_none_can_be_built_here():
    if here.reason() is None:
        pytest.skip("TensorRT and a GPU are here")
    assert here.reason() == "tensorrt is not installed" or "NVIDIA" in here.reason()
    assert TENSORRT.install
