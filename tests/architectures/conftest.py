from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

_ROOT = Path(__file__).resolve().parents[2]
_FETCHED = _ROOT / "artifacts" / "weights"
_FILES = {
    "simplenet": _ROOT / "configs" / "weights" / "simplenet.pth",
    "silero-vad": _FETCHED / "silero_vad_16k.safetensors",
    "facenet-pnet": _FETCHED / "pnet.pt",
    "efficientnet-lite0": _FETCHED / "efficientnet-lite0-57934424.pth",
    "minilm": _FETCHED / "all-minilm-l6-v2.safetensors",
}


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """Return a published state dict, or skip the test where it was not fetched."""
    path = _FILES[name]
    if not path.is_file():
        pytest.skip(f"{path.relative_to(_ROOT)} is not there: run `make weights`")
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True)


@pytest.fixture
def weights():
    return published_weights


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
