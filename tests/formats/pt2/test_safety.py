"""An exported program is opened only if its bytes show that it can do nothing but compute."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from pipeline.errors import UnsafeError, WeighbridgeError, WeightsError
from pipeline.formats.pt2 import safety
from pipeline.interface import Dimension, InputSpec, Interface
from tests.formats import networks
from tests.formats.pt2 import files

HERE = Path("marker")
ONE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 16),), ("y",))
REAL = ("example inputs", "a weight", "a constant", "a size")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.exported(networks.Norm(), ONE, tmp_path_factory.mktemp("program")).files[0]


def test_what_we_export_is_let_through(harmless: Path) -> None:
    safety.require_inert(harmless)


@pytest.mark.parametrize("name", files.hostile(HERE))
def test_what_does_more_than_compute_is_refused(name: str, harmless: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = files.rewritten(harmless, tmp_path / "hostile.pt2", files.hostile(marker)[name])
    with pytest.raises(UnsafeError, match=r"hostile\.pt2"):
        safety.require_inert(path)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REAL)
def test_torch_would_have_done_it(name: str, harmless: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = files.rewritten(harmless, tmp_path / "hostile.pt2", files.hostile(marker)[name])
    with contextlib.suppress(Exception):  # whatever comes after it
        torch.export.load(path)
    assert marker.exists()


@pytest.mark.parametrize("name", files.damaged())
def test_what_is_no_program_is_one_error(name: str, harmless: Path, tmp_path: Path) -> None:
    path = files.rewritten(harmless, tmp_path / "damaged.pt2", files.damaged()[name])
    with pytest.raises(WeighbridgeError, match=r"damaged\.pt2|models/model\.json|it lacks"):
        safety.require_inert(path)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_damaged(share: float, harmless: Path, tmp_path: Path) -> None:
    content = harmless.read_bytes()
    path = tmp_path / "cut.pt2"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError):
        safety.require_inert(path)


def test_a_strangers_file_as_torch_saves_it_is_refused(tmp_path: Path) -> None:
    """Its example inputs are a pickle, and its lines of source name their machine."""
    program = torch.export.export(networks.made(networks.Norm()), (torch.ones(3, 4),))
    torch.export.save(program, tmp_path / "theirs.pt2")
    with pytest.raises(UnsafeError, match="example inputs as a pickle"):
        safety.require_inert(tmp_path / "theirs.pt2")
