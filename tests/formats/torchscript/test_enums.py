"""Members of an Enum as attributes: the files are as sound as any other, and are audited where nobody knows the classes."""

import json
import subprocess
import sys
from enum import Enum, IntEnum
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats
from pipeline.formats.torchscript import safety
from pipeline.interface import Dimension, InputSpec, Interface

ROWS = Interface((InputSpec("x", "float32", ("batch", 3, 4)),), (Dimension("batch", 1, 4),), ("y",))


class Pool(Enum):
    MEAN = 1
    LAST = 2


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mode(Enum):
    ADD = "add"
    TWICE = "twice"


class Layout(str, Enum):  # noqa: UP042 - as timm's Format is
    NCHW = "NCHW"
    NLC = "NLC"


class Sizes(NamedTuple):
    first: int
    last: int


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)


class Plain(Base):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool.MEAN

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.proj(x)
        return y.mean(1) if self.pool == Pool.MEAN else y[:, -1]


class Numbers(Base):
    level: Level

    def __init__(self) -> None:
        super().__init__()
        self.level = Level.HIGH

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class Texts(Base):
    layout: Layout

    def __init__(self, mode: Mode = Mode.ADD) -> None:
        super().__init__()
        self.mode, self.layout = mode, Layout.NLC

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x) + 1 if self.mode == Mode.ADD else 2 * self.proj(x)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Texts(), Texts(Mode.TWICE), Texts()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.one(x)))


class Listed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.modes = [Mode.ADD, Mode.TWICE]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.proj(x)
        for mode in self.modes:
            y = y + 1 if mode == Mode.ADD else 2 * y
        return y


class Named(Base):
    """TorchScript loses the names of a tuple that is an attribute: this one is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = Sizes(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)[..., self.sizes.first : self.sizes.last]


NETWORKS = {Plain: "script", Numbers: "script", Texts: "script", Nested: "script", Listed: "script", Named: "trace"}

AUDIT = """
import json, sys, torch
from pathlib import Path
from pipeline.formats.torchscript import audit
folder = Path(sys.argv[1])
found = {}
for file in sorted(folder.glob("*.torchscript")):
    module, given = audit.read(file), torch.load(file.with_suffix(".pt"))
    state = {name: tensor.numpy() for name, tensor in given["state"].items()}
    found[file.stem] = [audit.audit_module(module, state, None)["problems"], torch.equal(module(given["x"]), given["y"])]
print(json.dumps(found))
"""


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python")
def test_a_file_with_members_of_an_enum_is_let_through_audited_and_right(tmp_path: Path) -> None:
    """Loaded in a process of its own, which has not the classes: torch cannot make Python's members of them there."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    chosen = formats()["torchscript"]
    for network, method in NETWORKS.items():
        module = network().eval()
        target = tmp_path / f"{network.__name__}.torchscript"
        origin = FromNetwork(module, ROWS, {"x": x.numpy()}, target, {"name": "test"})
        assert chosen.export is not None
        written = chosen.export(origin, chosen.options())
        assert written.facts["method"] == method, written.notes
        safety.require_inert(target)
        torch.save({"x": x, "y": module(x), "state": module.state_dict()}, target.with_suffix(".pt"))
    command = [sys.executable, "-W", "ignore", "-c", AUDIT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {network.__name__: [[], True] for network in NETWORKS}
