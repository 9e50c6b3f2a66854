"""A small real release: two linear layers as ONNX and TorchScript, golden cases from float64."""

from __future__ import annotations

import shutil
import signal
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from onnx import TensorProto, checker, helper, numpy_helper, save

from pipeline.formats.onnx import canonical as onnx_canonical
from pipeline.formats.torchscript import canonical as torchscript_canonical
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.release import bundle
from pipeline.release.bundle import ModelFile, ReleaseContent
from pipeline.release.standalone import Golden, GoldenCase
from tests import faults, pages
from tests.served import served

if TYPE_CHECKING:
    from collections.abc import Callable

# A machine that others use too may take any time for an example: no test fails for it.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

IDENTITY = {"name": "tiny", "weights_sha256": "ab" * 32}
INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 8),), ("logits", "best"))

_STATED = bundle.interface_facts(INTERFACE)
_OUTPUTS = {"logits": {"dtype": "float32", "shape": ["batch", 3]}, "best": {"dtype": "int64", "shape": ["batch"]}}
MANIFEST = {
    **_STATED,
    "outputs": [{**each, **_OUTPUTS[each["name"]]} for each in _STATED["outputs"]],
    "architecture": {"name": "tests.conftest:Tiny", "sha256": "cd" * 32},
    "backends": {
        name: {"backend": name, "format": format_, "options": {}, "verdict": "pass"}
        for name, format_ in (("eager", None), ("onnxruntime-cpu", "onnx"), ("torchscript", "torchscript"))
    },
    "config": {"release": {"license": "MIT", "datasets": ["seeded noise"], "description": "Tells three classes apart"}},
    "rows": {"verdict": "independent", "dimension": "batch", "cases": ["normal-5"]},
    "parity": {"logits": {"limit": 16}, "best": {"limit": 16}},
    "tools": {"weighbridge": "0.1.0", "torch": "2.13.0+cpu"},
    "weights": {"file": "tiny.pth", "parameters": 15, "sha256": IDENTITY["weights_sha256"]},
}


class Tiny(torch.nn.Module):
    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.linear.weight.data = torch.from_numpy(weight.T.copy())
        self.linear.bias.data = torch.from_numpy(bias.copy())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.tanh(self.linear(x))
        return logits, logits.argmax(1)


@pytest.fixture(scope="session")
def parameters() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)


@pytest.fixture(scope="session")
def golden(parameters) -> Golden:
    weight, bias = (array.astype(np.float64) for array in parameters)
    cases = []
    for batch in (1, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
        logits = np.tanh(x.astype(np.float64) @ weight + bias)
        outputs = {"logits": logits.astype(np.float32), "best": logits.argmax(1)}
        floors = {"logits": np.full(3, np.abs(logits).max() * 2.0**-23)}
        cases.append(GoldenCase(f"normal-{batch}", {"x": x}, outputs, floors))
    return Golden(tuple(cases), 16, {})


@pytest.fixture(scope="session")
def onnx_path(parameters, tmp_path_factory) -> Path:
    weight, bias = parameters
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["hidden"], name="gemm"),
        helper.make_node("Tanh", ["hidden"], ["logits"], name="tanh"),
        helper.make_node("ArgMax", ["logits"], ["best"], name="argmax", axis=1, keepdims=0),
    ]
    nodes[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/somewhere/net.py", line 3, in forward')
    nodes[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'linear']")
    nodes[0].metadata_props.add(key="another", value="see /somewhere/else/notes.txt")
    nodes[1].doc_string = "from /somewhere/net.py:4"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    path = tmp_path_factory.mktemp("onnx") / "source.onnx"
    save(model, path)
    return path


@pytest.fixture(scope="session")
def torchscript_path(parameters, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "source.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
        torch.jit.trace(Tiny(*parameters).eval(), torch.ones(2, 4)).save(str(path))
    return path


@pytest.fixture(scope="session")
def content(onnx_path, torchscript_path, golden, tmp_path_factory) -> ReleaseContent:
    root = tmp_path_factory.mktemp("canonical")
    onnx_canonical.from_file(onnx_path, root / "model.onnx", identity=IDENTITY)
    torchscript_canonical.from_file(torchscript_path, root / "model.torchscript", identity=IDENTITY)
    return ReleaseContent(
        name="tiny",
        version=None,
        models=(
            ModelFile("onnx", "onnx", "model.onnx", root / "model.onnx", facts={"opset": 20}),
            ModelFile("torchscript", "torchscript", "model.torchscript", root / "model.torchscript"),
        ),
        golden=golden,
        manifest=MANIFEST,
        report={"parity.json": b"{}", "scripts/rerun.py": b"print(1)\n"},
    )


@pytest.fixture(scope="session")
def pristine(content, tmp_path_factory) -> Path:
    """The release that tests must not change."""
    return bundle.write(content, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def release(pristine, tmp_path) -> Path:
    """A copy of the release to do harm to."""
    return Path(shutil.copytree(pristine, tmp_path / "release"))


@pytest.fixture
def changed(content):
    """The content with some fields replaced."""
    return lambda **fields: replace(content, **fields)


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str

    def failed_with(self, code, *words):
        """Whether it failed with this code and a message that holds all of these words; a traceback never counts."""
        missing = [word for word in words if word not in self.err]
        assert self.code == code, f"exit {self.code}, not {code}: {self.err}"
        assert not missing, f"{missing} not in: {self.err}"
        assert "Traceback" not in self.err
        return True


@pytest.fixture
def weighbridge(capsys, monkeypatch):
    """Run a command line in this process."""
    from pipeline.commands.app import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["weighbridge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Done(int(stopped.value.code or 0), captured.out, captured.err)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Return what makes a folder once, however many processes run the tests: `once(name, make)`, where `make(folder)` fills it."""
    root = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / "once" / name, root / "once" / f"{name}.made"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(root / "once" / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def built(once):
    """A release of configs/simplenet.yaml, built for real but not timed; tests must not change it."""
    from pipeline.run import plan as planning
    from pipeline.run.export import export

    out = once("built", lambda out: export(Path("configs/simplenet.yaml"), planning.Settings(out=out, benchmark=False)))
    return bundle.find(out / "simplenet")


@pytest.fixture(scope="session")
def serving():
    """Variables with which `weighbridge` is one process that serves every test of this one (tests/served.py)."""
    with served(pages.environment(**{faults.MARK: uuid4().hex})) as variables:
        yield variables
