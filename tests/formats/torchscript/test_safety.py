"""A TorchScript archive is opened only if its bytes show that it can do nothing but compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats.torchscript import safety as torchscript
from tests.effort import at_most
from tests.formats.torchscript import programs

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is:DeprecationWarning")
HERE = Path("marker")  # of payloads that are named here and written below tmp_path


class Mixed(nn.Module):
    """Numbered modules, an LSTM, attention, texts with quotes and escapes: what python_print writes for real networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.GELU()))
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.named = nn.ModuleDict({"one": nn.Linear(4, 4)})
        self.register_buffer("scale", torch.ones(4).expand(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(0) > 100:
            raise ValueError('it\'s "too" large:\n\té')
        y, _ = self.lstm(self.stack(x))
        z, _ = self.attention(y, y, y)
        z = nn.functional.interpolate(self.named["one"](z), scale_factor=2.0)
        return torch.clamp(z.sum() * self.scale, -1e30, float("inf"))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.saved(programs.AddOne(), tmp_path_factory.mktemp("programs") / "harmless.pt")


def test_programs_as_we_export_them_are_let_through(harmless: Path, tmp_path: Path) -> None:
    torchscript.require_inert(harmless)
    torchscript.require_inert(programs.saved(Mixed(), tmp_path / "mixed.pt"))


def test_a_program_that_restores_itself_runs_when_it_is_loaded_and_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = programs.saved(programs.Restores(str(marker)), tmp_path / "restores.pt")
    marker.unlink(missing_ok=True)
    with pytest.raises(UnsafeError, match=r"restores\.pt \(code/"):
        torchscript.require_inert(path)
    assert not marker.exists()
    torch.jit.load(str(path))
    assert marker.exists()


@pytest.mark.parametrize("name", programs.hostile_code(HERE))
def test_code_that_touches_files_is_real_and_refused(name: str, harmless: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = programs.hostile_code(marker)[name](programs.code_of(harmless))
    path = programs.rewritten(harmless, tmp_path / "hostile.pt", {programs.CODE: code.encode()})
    with pytest.raises(UnsafeError, match=r"hostile\.pt \(code/"):
        torchscript.require_inert(path)
    assert not marker.exists()
    torch.jit.load(str(path))(torch.ones(2))
    assert marker.exists()


@pytest.mark.parametrize("name", programs.other_code())
def test_code_that_torch_does_not_write_is_refused(name: str, harmless: Path, tmp_path: Path) -> None:
    code = programs.other_code()[name](programs.code_of(harmless))
    assert code != programs.code_of(harmless)
    path = programs.rewritten(harmless, tmp_path / "hostile.pt", {programs.CODE: code.encode()})
    with pytest.raises(UnsafeError, match=r"hostile\.pt \(code/"):
        torchscript.require_inert(path)


@pytest.mark.parametrize("name", programs.hostile_entries(HERE))
def test_entries_that_a_program_of_ours_has_not_are_refused(name: str, harmless: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = programs.rewritten(harmless, tmp_path / "hostile.pt", programs.hostile_entries(marker)[name])
    with at_most(40), pytest.raises(UnsafeError, match=r"hostile\.pt"):
        torchscript.require_inert(path)
    assert not marker.exists()


def test_a_program_that_is_cut_off_or_lacks_a_part_is_damage(harmless: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(harmless.read_bytes()[:-30])
    with pytest.raises(WeightsError, match=r"cut\.pt is no TorchScript archive, or damaged"):
        torchscript.require_inert(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"it lacks constants\.pkl"):
        torchscript.require_inert(path)
