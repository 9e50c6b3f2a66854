"""Model files come out the same everywhere, name no machine, and compute what they did."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline.errors import ExportError
from pipeline.formats.onnx import canonical as onnx_canonical
from pipeline.formats.torchscript import canonical as torchscript_canonical

IDENTITY = {"name": "tiny", "weights_sha256": "ab" * 32}
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_onnx_is_stripped_of_paths_and_says_what_it_was_stripped_of(onnx_path, tmp_path):
    stripped = onnx_canonical.from_file(onnx_path, tmp_path / "model.onnx", identity=IDENTITY)
    assert stripped.files == (tmp_path / "model.onnx",)
    assert stripped.nodes["gemm"] == {
        "stack_trace": 'File "/somewhere/net.py", line 3, in forward',
        "name_scopes": "['', 'linear']",
    }
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key for prop in model.graph.node[0].metadata_props} == {"pkg.torch.onnx.name_scopes"}
    assert model.graph.node[1].doc_string == ""
    assert b"somewhere" not in (tmp_path / "model.onnx").read_bytes()


def test_onnx_computes_the_same_and_carries_the_identity(onnx_path, tmp_path):
    onnx_canonical.from_file(onnx_path, tmp_path / "model.onnx", identity=IDENTITY)
    session = _session(tmp_path / "model.onnx")
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], _session(onnx_path).run(None, {"x": X})[0])
    assert session.get_modelmeta().custom_metadata_map == {
        "weighbridge.name": "tiny",
        "weighbridge.weights_sha256": "ab" * 32,
    }


@pytest.mark.parametrize(
    "path_text", ['File "net.py"', "/root/net.py", "at (/srv/a/b.py:3)", "C:\\net\\a.py", "\\\\host\\a"]
)
def test_metadata_with_a_path_in_any_spelling_is_dropped(onnx_path, tmp_path, path_text):
    model = onnx.load(onnx_path)
    model.graph.metadata_props.add(key="note", value=path_text)
    model.graph.metadata_props.add(key="scope", value=": net.Net/fc: torch.nn.Linear/linear: aten.linear.default")
    onnx.save(model, tmp_path / "source.onnx")
    onnx_canonical.from_file(tmp_path / "source.onnx", tmp_path / "model.onnx", identity={})
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [prop.key for prop in graph.metadata_props] == ["scope"]


def test_external_weights_stay_external_on_pages_under_the_new_name(onnx_path, tmp_path):
    model = onnx.load(onnx_path)
    onnx.save(model, tmp_path / "source.onnx", save_as_external_data=True, location="any.bin", size_threshold=0)
    stripped = onnx_canonical.from_file(tmp_path / "source.onnx", tmp_path / "model.onnx", identity=IDENTITY)
    (tmp_path / "any.bin").unlink()
    assert [path.name for path in stripped.files] == ["model.onnx", "model.onnx.data"]
    written = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    entries = [{each.key: each.value for each in tensor.external_data} for tensor in written.graph.initializer]
    assert entries == [
        {"location": "model.onnx.data", "offset": "0", "length": "48"},
        {"location": "model.onnx.data", "offset": "4096", "length": "12"},
    ]
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    np.testing.assert_array_equal(
        _session(tmp_path / "model.onnx").run(None, {"x": X})[0], _session(onnx_path).run(None, {"x": X})[0]
    )


def test_weights_too_large_for_one_protobuf_move_out(onnx_path, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_canonical, "EXTERNAL_DATA_BYTES", 59)  # the model holds 60
    monkeypatch.setattr(onnx_canonical, "_EXTERNAL_TENSOR_FROM_BYTES", 48)
    stripped = onnx_canonical.from_file(onnx_path, tmp_path / "model.onnx", identity=IDENTITY)
    assert [path.stat().st_size for path in stripped.files[1:]] == [48]
    _session(tmp_path / "model.onnx").run(None, {"x": X})


def test_torchscript_loads_computes_the_same_and_carries_the_identity(torchscript_path, tmp_path):
    target = tmp_path / "model.torchscript"
    torchscript_canonical.from_file(torchscript_path, target, identity=IDENTITY)
    extra = {torchscript_canonical.IDENTITY_FILE: ""}
    loaded = _jit_load(target, extra)
    assert json.loads(extra[torchscript_canonical.IDENTITY_FILE]) == IDENTITY
    for got, expected in zip(
        loaded(torch.from_numpy(X)), _jit_load(torchscript_path)(torch.from_numpy(X)), strict=True
    ):
        assert torch.equal(got, expected)


def _jit_load(path, extra=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
        return torch.jit.load(str(path), _extra_files=extra)


def test_torchscript_entries_are_sorted_stored_aligned_dated_1980_and_without_debug_files(torchscript_path, tmp_path):
    target = tmp_path / "model.torchscript"
    torchscript_canonical.from_file(torchscript_path, target, identity=IDENTITY)
    content = target.read_bytes()
    with zipfile.ZipFile(target) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert not [name for name in names if name.endswith((".debug_pkl", "serialization_id"))]
    for entry in entries:
        start = entry.header_offset + 26
        name_bytes, extra_bytes = (int.from_bytes(content[start + at : start + at + 2], "little") for at in (0, 2))
        assert (entry.header_offset + 30 + name_bytes + extra_bytes) % 64 == 0, entry.filename
        assert (entry.date_time, entry.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)


def test_canonical_files_are_fixed_points(onnx_path, torchscript_path, tmp_path):
    for write, source in ((onnx_canonical.from_file, onnx_path), (torchscript_canonical.from_file, torchscript_path)):
        write(source, tmp_path / "once", identity=IDENTITY)
        write(tmp_path / "once", tmp_path / "twice", identity={} if write is onnx_canonical.from_file else IDENTITY)
        assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


@pytest.mark.parametrize("write", [onnx_canonical.from_file, torchscript_canonical.from_file])
def test_a_file_of_another_kind_is_an_export_error(tmp_path, write):
    (tmp_path / "other").write_bytes(b"\xff\xfe not a model")
    with pytest.raises(ExportError, match="is not"):
        write(tmp_path / "other", tmp_path / "target", identity={})
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(ExportError):
        torchscript_canonical.from_file(tmp_path / "plain.zip", tmp_path / "target", identity={})


_EXPORTER = """
import sys, torch
from pathlib import Path
from pipeline.formats.onnx import canonical as onnx_canonical
from pipeline.formats.torchscript import canonical as torchscript_canonical

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.b = torch.nn.Linear(4, 80)
        self.a = torch.nn.Linear(80, 2)
        self.norm = torch.nn.LayerNorm(80)
    def forward(self, x):
        return self.a(torch.relu(self.norm(self.b(x))))

torch.manual_seed(0)
net = Net().eval()
x = torch.ones(3, 4)
torch.jit.script(net).save("raw.pt")
torch.onnx.export(net, (x,), "raw.onnx", dynamo=True, input_names=["x"], verbose=False, dynamic_shapes=({0: "batch"},))
identity = {"name": "net"}
nodes = onnx_canonical.from_file(Path("raw.onnx"), Path("model.onnx"), identity=identity).nodes
torchscript_canonical.from_file(Path("raw.pt"), Path("model.torchscript"), identity=identity)
assert any("in forward" in known["stack_trace"] for known in nodes.values()), nodes
"""


@pytest.mark.slow
def test_two_processes_in_two_directories_write_the_same_bytes_which_name_no_machine(tmp_path):
    processes, folders = [], [tmp_path / "one", tmp_path / "another-directory"]
    for folder, zone in zip(folders, ("UTC", "Asia/Tokyo"), strict=True):
        folder.mkdir()
        (folder / "build.py").write_text(_EXPORTER)
        environment = {**os.environ, "PYTHONHASHSEED": "0", "TZ": zone, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
        command = [sys.executable, "-W", "ignore", "build.py"]
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=-3, stderr=subprocess.PIPE))
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors.decode()
    for name in ("model.onnx", "model.onnx.data", "model.torchscript"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second, name
        traces = [str(tmp_path), "site-packages", '.py", line', "/usr/", sys.prefix]
        if getpass.getuser() != "root":  # too short and common to be looked for
            traces.append(getpass.getuser())
        traces.append(socket.gethostname())
        assert not [trace for trace in traces if trace.encode() in first], name
        assert not re.search(rb"(?<![\w.])/(home|root|tmp|work|usr|opt)/", first), name
