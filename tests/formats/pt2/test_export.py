"""Programs of torch.export: right at every declared size, the same bytes twice, and every sabotage closes the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError, GateError
from pipeline.formats.pt2 import archive
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import calling, cases
from tests.formats import networks
from tests.formats.pt2 import files
from tests.test_export import proven, sabotaged, until

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, TIME = Dimension("batch", 1, 9), Dimension("time", 1, 12)
FRAMES = InputSpec("frames", "float32", ("batch", "time", 4))
CONFIG = """
name: pair
model: {architecture: "tests.formats.networks:Pair", weights: pair.pth}
inputs: {x: {dtype: float32, shape: [batch, 4]}}
dimensions: {batch: {min: 1, max: 16}}
outputs: [first, second]
exports: [pt2]
backends: [torch-export]
benchmark: {reference: torch-export}
"""


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.gru(frames)[0]


class Attending(nn.Module):
    """Whole numbers and a mask go in; two sizes are free."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(11, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        return self.attention(x, x, x, attn_mask=(keep @ keep.mT).repeat_interleave(2, 0), need_weights=False)[0]


class Stateful(nn.Module):
    """Two inputs of one shape, which are easily swapped; a state goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> dict[str, torch.Tensor]:
        h, c = self.cell(x, (hidden, cell))
        return {"new_hidden": h, "new_cell": c}


class Multiscale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(nn.functional.max_pool2d(self.convolution(image), 2), 1).flatten(1)


KINDS: dict[str, tuple[type[nn.Module], Interface]] = {
    "recurrent": (Recurrent, Interface((FRAMES,), (BATCH, TIME), ("y",))),
    "attending": (
        Attending,
        Interface(
            (
                InputSpec("tokens", "int64", ("batch", "time"), 0, 11),
                InputSpec("keep", "float32", ("batch", "time", 2), -1, 1),
            ),
            (BATCH, TIME),
            ("y",),
        ),
    ),
    "stateful": (
        Stateful,
        Interface(
            tuple(InputSpec(name, "float32", ("batch", 4)) for name in ("x", "hidden", "cell")),
            (BATCH,),
            ("new_hidden", "new_cell"),
        ),
    ),
    "multiscale": (
        Multiscale,
        Interface(
            (InputSpec("image", "float32", ("batch", 3, "height", "width")),),
            (BATCH, Dimension("height", 8, 40), Dimension("width", 8, 40)),
            ("y",),
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_network_does_at_every_declared_size(kind: str, tmp_path: Path) -> None:
    made, interface = KINDS[kind]
    torch.manual_seed(0)
    network = made().eval()
    written = files.exported(network, interface, tmp_path)
    backend = backends()["torch-export"]
    session = backend.open(Source(interface, written.files[0]), backend.options())
    for case in cases.sample(interface, seed=1, cap_elements=2000):
        with torch.inference_mode():
            result = network(*calling.tensors_from(case.inputs).values())
        wanted = [*result.values()] if isinstance(result, dict) else result if isinstance(result, tuple) else [result]
        for (name, got), want in zip(session.run(case.inputs).items(), wanted, strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5, err_msg=f"{name} in {case.name}")
    over = cases.make(interface, {each.name: each.max for each in interface.dimensions}, seed=0, name="over").inputs
    beyond = {name: np.concatenate([array, array]) for name, array in over.items()}
    with pytest.raises(Exception, match=r"declared is 1 to|declared is 8 to"):
        session.run(beyond)
    program = torch.export.load(written.files[0]).module()  # and so does the file, to whoever loads it
    with pytest.raises(Exception, match=r"[Gg]uard|to be <="):
        program(*(torch.from_numpy(array) for array in beyond.values()))


def test_another_dtype_is_refused_by_name(tmp_path: Path) -> None:
    made, interface = KINDS["stateful"]
    written = files.exported(made(), interface, tmp_path)
    backend = backends()["torch-export"]
    session = backend.open(Source(interface, written.files[0]), backend.options())
    inputs = {spec.name: np.zeros((2, 4), np.float32) for spec in interface.inputs}
    with pytest.raises(Exception, match=r"cell is float64, expected float32"):
        session.run(inputs | {"cell": np.zeros((2, 4))})


def test_a_size_that_the_network_fixes_is_refused_with_both_ranges(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(len(x.tolist()), 4)

    interface = Interface((InputSpec("x", "float32", ("batch", 4)),), (BATCH,), ("y",))
    with pytest.raises(ExportError, match="batch: declared 1 to 9"):
        files.exported(Fixed(), interface, tmp_path)


_BUILD = """
import sys
from pathlib import Path
from tests.formats.pt2 import files
from tests.formats.pt2.test_export import KINDS
import torch
torch.manual_seed(0)
made, interface = KINDS[sys.argv[1]]
print(files.exported(made().eval(), interface, Path("made")).files[0].resolve())
"""


def test_two_processes_in_two_directories_write_the_same_bytes_which_name_no_machine(tmp_path: Path) -> None:
    made = []
    for folder, seed in (("one", "1"), ("another-directory", "2")):
        (tmp_path / folder).mkdir()
        variables = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-W", "ignore", "-c", _BUILD, "multiscale"]
        made.append(subprocess.Popen(command, cwd=tmp_path / folder, env=variables, stdout=subprocess.PIPE, text=True))
    first, second = (Path(each.communicate()[0].strip()).read_bytes() for each in made)
    assert first == second
    assert not [trace for trace in (str(tmp_path), str(Path.cwd()), "site-packages", ".py") if trace.encode() in first]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    torch.save(networks.Pair().state_dict(), folder / "pair.pth")
    (folder / "pair.yaml").write_text(CONFIG)
    return until("export", folder / "pair.yaml", folder, trust=("tests.formats",))


def test_a_healthy_program_passes(pair: Any) -> None:
    found = proven(pair)
    assert [proof.status for proof in found.proofs] == ["pass"]
    assert found.audits["pt2"].passed
    assert not found.audits["pt2"].unaccounted_count


def _weight(path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        values = np.frombuffer(entries["data/weights/weight_0"], np.float32).copy()
        values[0] *= 1.02
        entries["data/weights/weight_0"] = values.tobytes()

    files.rewritten(path, path, change)


def _swapped(path: Path) -> None:
    def change(program: Any) -> None:
        for outputs in (
            program["graph_module"]["graph"]["outputs"],
            program["graph_module"]["signature"]["output_specs"],
        ):
            outputs.reverse()

    files.rewritten(path, path, files.edited(change))


def _narrower(path: Path) -> None:
    def change(program: Any) -> None:
        for each in program["range_constraints"].values():
            each["max_val"] = 15

    files.rewritten(path, path, files.edited(change))


def _half(path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        config = json.loads(entries[files.WEIGHTS])
        for each in config["config"].values():
            name = f"data/weights/{each['path_name']}"
            values = np.frombuffer(entries[name], np.float32).astype(np.float16)
            entries[name] = values.astype(np.float32).tobytes()

    files.rewritten(path, path, change)


SABOTAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight": (_weight, "weight"),
    "outputs": (_swapped, "first|second"),
    "a range": (_narrower, "16"),
    "precision": (_half, "weight|first"),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_closes_the_gate_and_is_named(name: str, pair: Any) -> None:
    change, said = SABOTAGES[name]
    with pytest.raises((GateError, Exception), match=said) as closed:
        proven(sabotaged(pair, "pt2", change))
    assert isinstance(closed.value, GateError) or closed.value.exit_code == 4


def test_its_tensors_are_read_without_torchs_loader(pair: Any) -> None:
    path = pair.work.parent / "pair.pth"
    state = torch.load(path, weights_only=True)
    from pipeline.run.stages.results import Exported

    with archive.opened(pair.need(Exported).named("pt2").files[0]) as held:
        found = archive.tensors(held)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in state.items()
    }
