"""A stranger's ExecuTorch program in a release whose digests agree: never opened without a key, whatever it holds. No runtime is needed."""

import json
import subprocess
import sys

import pytest

from pipeline.backends.table import backends
from pipeline.errors import DigestError, UnsafeError
from pipeline.formats.table import formats
from pipeline.parity.candidate import format_of
from pipeline.release import opening, standalone
from pipeline.release.load import load_release
from pipeline.release.verify import check, verify
from tests.release.forgery import forge
from tests.weights.test_executorch_header import CRAFTED, program

NAME = "model.pte"


@pytest.fixture
def forged(release):
    """Return a function that puts a program in the place of a release's TorchScript archive, and makes every digest agree."""

    def of(content):
        (release / "model.torchscript").rename(release / NAME)

        def edit(manifest):
            for each in manifest["models"]:
                if each["format"] == "torchscript":
                    each.update(format="executorch", path=NAME, files=[NAME])
            for each in manifest["files"]:
                each["path"] = each["path"].replace("model.torchscript", NAME)
            manifest["backends"] = {
                "executorch-xnnpack" if name == "torchscript" else name: value
                | ({"format": "executorch", "backend": "executorch-xnnpack"} if name == "torchscript" else {})
                for name, value in manifest["backends"].items()
            }
            manifest["files"].sort(key=lambda each: each["path"])

        manifest = json.loads((release / standalone.MANIFEST).read_bytes())
        for each in manifest["files"]:
            each["path"] = each["path"].replace("model.torchscript", NAME)
        (release / standalone.MANIFEST).write_text(json.dumps(manifest))
        return forge(release, {NAME: content}, edit)

    return of


@pytest.mark.parametrize("name", CRAFTED)
def test_a_program_that_no_exporter_writes_is_refused_by_rule_on_every_way_in(name, forged):
    release = forged(CRAFTED[name][0])
    for attempt in (check, verify, load_release):
        with pytest.raises(UnsafeError, match=CRAFTED[name][1]):
            attempt(release)


def test_one_that_is_cut_off_is_a_failed_check(forged):
    release = forged(program()[:150])
    assert check(release) == [f"{NAME}: it is a truncated file, not an ExecuTorch program"]
    with pytest.raises(DigestError, match="truncated"):
        load_release(release)


def test_a_stranger_s_whose_header_is_right_is_not_opened_without_a_key(forged, monkeypatch):
    release = forged(program())
    opened = []
    chosen = backends()["executorch-xnnpack"]
    able = {**backends(), chosen.name: _watched(chosen, opened)}
    for module in ("pipeline.release.load", "pipeline.release.verify"):
        monkeypatch.setattr(f"{module}.{'table' if module.endswith('verify') else 'backends'}", lambda: able)
    assert load_release(release).backend == "onnxruntime-cpu"
    with pytest.raises(UnsafeError, match="without checking all of it") as refused:
        load_release(release, backend=chosen.name)
    assert "--key" in refused.value.hint
    verdict = verify(release)
    assert verdict.passed
    assert any(chosen.name in note and "--key" in note for note in verdict.notes)
    assert opened == []


def _watched(backend, opened):
    from dataclasses import replace

    return replace(backend, probe=lambda: None, open=lambda *given: opened.append(given))


def test_the_shipped_verifier_asks_for_a_key_and_says_so(forged):
    release = forged(program())
    ran = subprocess.run(
        [sys.executable, standalone.__file__, str(release)], capture_output=True, text=True, check=False
    )
    assert "executorch-xnnpack did not run model.pte" in ran.stderr
    assert "give --key" in ran.stderr


def test_what_the_verifier_runs_only_with_a_key_is_what_the_formats_say():
    for runner in standalone.RUNNERS.values():
        assert runner.needs_key == opening.is_native(runner.format)


def test_a_candidate_is_refused_unless_somebody_vouches_for_it(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(program())
    with pytest.raises(UnsafeError, match="without checking all of it") as refused:
        format_of(path, trusted=False)
    assert "--trust-candidate" in refused.value.hint
    assert format_of(path, trusted=True) is formats()["executorch"]
