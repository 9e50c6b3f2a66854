"""A release is written whole, under the digest of its content, and never changed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline.errors import InputError
from pipeline.release import bundle, sealing
from pipeline.release.bundle import find, write, write_failed
from pipeline.release.standalone import check_files
from pipeline.storage.store import canonical_json, digest_file


def _names(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_release_has_the_documented_layout(pristine):
    assert _names(pristine) == [
        "README.md",
        "SHA256SUMS",
        "golden.safetensors",
        "manifest.json",
        "model.onnx",
        "model.torchscript",
        "provenance.json",
        "report/SHA256SUMS",
        "report/parity.json",
        "report/scripts/rerun.py",
        "sbom.cdx.json",
        "verify.py",
    ]
    assert (pristine.parent / "latest").read_text() == f"{pristine.name}\n"
    assert not [path for path in pristine.parent.iterdir() if path.name.startswith(".tmp")]


def test_the_manifest_states_every_file_and_the_digest_that_names_the_version(pristine):
    text = (pristine / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert canonical_json(manifest) == text
    assert manifest["schema_version"] == 1
    assert manifest["version"] == manifest["digest"][:12] == pristine.name
    assert manifest["digest"] == sealing.content_digest(manifest)
    roles = {entry["path"]: entry["role"] for entry in manifest["files"]}
    assert roles == {
        "README.md": "card",
        "golden.safetensors": "golden",
        "model.onnx": "model",
        "model.torchscript": "model",
        "provenance.json": "provenance",
        "sbom.cdx.json": "sbom",
        "verify.py": "verifier",
    }
    for entry in manifest["files"]:
        path = pristine / entry["path"]
        assert (entry["sha256"], entry["size_bytes"]) == (digest_file(path), path.stat().st_size)
    assert [model["format"] for model in manifest["models"]] == ["onnx", "torchscript"]


def test_sha256sum_accepts_both_lists(pristine):
    for folder in (pristine, pristine / "report"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_the_interface_survives_the_manifest(pristine):
    manifest = json.loads((pristine / "manifest.json").read_bytes())
    interface = bundle.interface_from(manifest)
    assert bundle.interface_facts(interface) == {
        "dimensions": manifest["dimensions"],
        "inputs": manifest["inputs"],
        "outputs": [{"name": each["name"]} for each in manifest["outputs"]],
    }
    with pytest.raises(InputError, match="states no inputs"):
        bundle.interface_from({})


def test_the_same_content_is_the_same_bytes_elsewhere_and_stays_untouched_here(content, pristine, tmp_path, changed):
    again = write(changed(report={"other.json": b"1"}), tmp_path)
    outside = [name for name in _names(pristine) if not name.startswith("report/")]
    assert {name: (again / name).read_bytes() for name in outside} == {
        name: (pristine / name).read_bytes() for name in outside
    }
    inode = again.stat().st_ino
    assert write(content, tmp_path) == again
    assert again.stat().st_ino == inode
    assert (again / "report" / "other.json").exists()


def test_a_changed_content_is_another_version_and_becomes_the_latest(content, changed, tmp_path):
    first = write(content, tmp_path)
    second = write(changed(manifest={**content.manifest, "tools": {"weighbridge": "0.2.0"}}), tmp_path)
    assert first != second
    assert find(tmp_path / "tiny") == second
    write(content, tmp_path)
    assert find(tmp_path / "tiny") == first


def test_a_given_version_is_not_overwritten_by_another_content(changed, content, tmp_path):
    release = write(changed(version="1.0"), tmp_path)
    assert release == tmp_path / "tiny" / "1.0"
    assert write(changed(version="1.0"), tmp_path) == release
    before = {name: (release / name).read_bytes() for name in _names(release)}
    with pytest.raises(InputError, match="differs from what was built") as caught:
        write(changed(version="1.0", manifest={**content.manifest, "tools": {"weighbridge": "0.2.0"}}), tmp_path)
    assert caught.value.hint
    assert {name: (release / name).read_bytes() for name in _names(release)} == before


def test_a_damaged_release_is_replaced_by_what_was_built(content, tmp_path):
    release = write(content, tmp_path)
    (release / "model.onnx").write_bytes(b"")
    assert write(content, tmp_path) == release
    assert check_files(release) == []


def test_a_damaged_release_of_a_named_version_is_left_to_the_user(content, tmp_path):
    named = replace(content, version="1.0")
    release = write(named, tmp_path)
    (release / "model.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="differs from what was built"):
        write(named, tmp_path)


_LIMITED_WRITER = """
import pickle, resource, sys
from pathlib import Path
from pipeline.errors import WeighbridgeError
from pipeline.release.bundle import write
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    write(pickle.loads(sys.stdin.buffer.read()), Path(sys.argv[1]))
except WeighbridgeError as error:
    print(error.exit_code, error.message)
"""


def test_a_write_that_fails_leaves_no_part_of_a_release_and_the_old_latest(content, changed, tmp_path):
    first = write(content, tmp_path)
    before = _names(tmp_path)
    models = (content.models[0], replace(content.models[1], path=tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        write(changed(version="2", models=models), tmp_path)
    command = [sys.executable, "-c", _LIMITED_WRITER, str(tmp_path)]
    done = subprocess.run(command, input=pickle.dumps(changed(version="2")), capture_output=True, check=True)
    assert done.stdout.startswith(b"4 cannot write ")
    assert _names(tmp_path) == before
    assert find(tmp_path / "tiny") == first


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "-rf", "x" * 200, "a\n"])
def test_names_that_could_leave_the_directory_are_refused(changed, tmp_path, name):
    with pytest.raises(InputError, match="cannot name"):
        write(changed(name=name), tmp_path)
    with pytest.raises(InputError, match="cannot name"):
        write(changed(version=name), tmp_path)
    with pytest.raises(ValueError, match="cannot name"):
        write(changed(report={f"sub/{name}/..": b""}), tmp_path)


@pytest.mark.parametrize("version", ["latest", "failed"])
def test_a_version_cannot_take_a_name_that_means_something_else(changed, tmp_path, version):
    with pytest.raises(InputError, match="that name is taken"):
        write(changed(version=version), tmp_path)


def test_a_failed_run_leaves_its_report_alone_and_replaces_an_older_one(tmp_path):
    write_failed("tiny", tmp_path, {"parity.json": b"1", "old.json": b""})
    failed = write_failed("tiny", tmp_path, {"parity.json": b"2"})
    assert failed == tmp_path / "tiny" / "failed"
    assert _names(failed) == ["report/SHA256SUMS", "report/parity.json"]
    with pytest.raises(InputError, match="holds no release") as caught:
        find(tmp_path / "tiny")
    assert "the last run failed" in str(caught.value.hint)


def test_a_release_is_found_from_each_path_that_means_it(content, tmp_path):
    release = write(content, tmp_path)
    for path in (release, release / "manifest.json", tmp_path / "tiny"):
        assert find(path) == release
    with pytest.raises(InputError, match="holds no release") as caught:
        find(tmp_path)
    assert str(tmp_path / "tiny") in str(caught.value.hint)
    with pytest.raises(InputError, match="holds no release"):
        find(tmp_path / "nowhere")


@pytest.mark.parametrize("latest", ["../elsewhere", "", "gone", "\xff"])
def test_a_latest_that_names_no_release_is_an_error(content, tmp_path, latest):
    write(content, tmp_path)
    (tmp_path / "tiny" / "latest").write_bytes(latest.encode("latin-1"))
    with pytest.raises(InputError, match="which is no release"):
        find(tmp_path / "tiny")


_WRITER = """
import pickle, sys
from pathlib import Path
from dataclasses import replace
from pipeline.release.bundle import write
content = pickle.loads(sys.stdin.buffer.read())
for round in range(10):
    write(replace(content, version=str(round), report={"who.json": sys.argv[2].encode()}), Path(sys.argv[1]))
"""


def test_several_processes_that_write_the_same_release_all_succeed(content, tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(index)], stdin=-1, stderr=-1)
        for index in range(3)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(pickle.dumps(content))
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        errors = writer.communicate()[1].decode()
        assert writer.returncode == 0, errors
    assert find(tmp_path / "tiny").name == "9"


def test_what_belongs_to_the_network_lies_beside_it_as_it_came(changed, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"its": "own"}')
    release = write(changed(beside=(tmp_path / "tokenizer.json",)), tmp_path / "out")
    assert (release / "tokenizer.json").read_text() == '{"its": "own"}'
    files = {each["path"]: each["role"] for each in json.loads((release / "manifest.json").read_bytes())["files"]}
    assert files["tokenizer.json"] == "beside"
    assert check_files(release) == []
    (release / "tokenizer.json").write_text("another")
    assert "tokenizer.json" in check_files(release)[0]


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "verify.py", "SHA256SUMS", "report"])
def test_what_belongs_to_the_network_takes_no_name_of_the_releases_own_files(changed, tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=rf"{name} has the name of another file of the release"):
        write(changed(beside=(tmp_path / name,)), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("manifest.json"))
