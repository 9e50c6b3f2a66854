"""Machine code of whoever: it is opened once a signature says whose it is, and never before."""

from dataclasses import replace

import pytest

from pipeline.errors import InputError, UnsafeError
from pipeline.formats import table
from pipeline.release import bundle, signing
from pipeline.release.load import load_release
from pipeline.release.verify import Origin, verify


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """Let ONNX be a format of machine code: what is held here is the rule, and no file of it runs anything."""
    changed = {name: replace(each, is_native=name == "onnx") for name, each in table.formats().items()}
    monkeypatch.setattr(table, "formats", lambda: changed)


@pytest.fixture
def keys(tmp_path):
    return signing.generate(tmp_path / "maker")


@pytest.fixture
def signed(changed, keys, tmp_path):
    return bundle.write(changed(sign=keys[0]), tmp_path / "signed")


def test_it_is_not_what_a_release_runs_on_unless_its_maker_is_known(signed, keys):
    assert load_release(signed).backend == "torchscript"
    assert load_release(signed, key=keys[1]).backend == "onnxruntime-cpu"


def test_naming_its_backend_is_refused_and_the_way_is_told(signed, pristine, keys):
    for release in (signed, pristine):
        with pytest.raises(UnsafeError, match="machine code") as refused:
            load_release(release, backend="onnxruntime-cpu")
        assert "--key" in refused.value.hint
    assert load_release(signed, backend="onnxruntime-cpu", key=keys[1]).backend == "onnxruntime-cpu"


def test_a_signature_says_nothing_of_files_whose_digests_were_not_compared(signed, keys):
    with pytest.raises(InputError, match="only opened once its digest is checked"):
        load_release(signed, backend="onnxruntime-cpu", key=keys[1], verify=False)


def test_a_key_of_somebody_else_opens_nothing(signed, tmp_path):
    stranger = signing.generate(tmp_path / "stranger")
    with pytest.raises(Exception, match="by another key"):
        load_release(signed, backend="onnxruntime-cpu", key=stranger[1])


def test_verifying_leaves_it_out_and_says_so(signed, keys):
    ran = []

    def run(backend, _file, inputs):
        ran.append(backend)
        return load_release(signed, backend=backend, key=keys[1])(**inputs)

    verdict = verify(signed, run=run)
    assert verdict.passed, verdict.problems
    assert set(ran) == {"torchscript"}
    assert verdict.notes == ("onnxruntime-cpu did not run: its file is machine code, which runs only with --key",)
    assert "onnxruntime-cpu" in verify(signed, origin=Origin(keys[1]), run=run).backends
    with pytest.raises(UnsafeError, match="machine code"):
        verify(signed, backends=["onnxruntime-cpu"], run=run)
