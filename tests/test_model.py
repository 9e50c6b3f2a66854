"""Rebuilding and loading: strict, in eval mode, without gradients, whatever the constructor does."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline import model
from pipeline.errors import ArchitectureError, MisfitError, UnsafeError
from pipeline.types import Network

PLACES = {"model.arguments": "config.yaml:4:3"}


class Plain(nn.Module):
    def __init__(self, size: int = 4):
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.fc(x)))


class Tied(nn.Module):
    """One tensor under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class Computed(nn.Module):
    """A buffer that is not in the state dict, and a plain tensor attribute: both come from the constructor."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("scale", torch.arange(4.0), persistent=False)
        self.shift = torch.full((4,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale + self.shift


class Recurrent(nn.Module):
    """An LSTM keeps a flat list of its weights beside them."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x.unsqueeze(1))[0]


class Looks(nn.Module):
    """A constructor that looks at values, which the meta device does not have."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.largest = float(torch.arange(3.0).max())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.largest


def loaded(network, folder, **arguments):
    torch.save(network.state_dict(), folder / "weights.pth")
    return model.load(described(type(network).__name__, folder, **arguments))


def described(name, folder, **arguments):
    return Network(f"tests.test_model:{name}", arguments, str(folder / "weights.pth"), ("tests.test_model",), PLACES)


@pytest.mark.parametrize("kind", [Plain, Tied, Computed, Recurrent, Looks], ids=lambda each: each.__name__)
def test_a_loaded_network_computes_what_the_saved_one_did(kind, tmp_path):
    torch.manual_seed(1)
    network = kind().eval()
    x = torch.randn(3, 4)
    result = loaded(network, tmp_path).module(x)
    torch.testing.assert_close(result, network(x), rtol=0, atol=0)
    assert not result.requires_grad


def test_it_is_in_eval_mode_without_gradients(tmp_path):
    module = loaded(Plain().train(), tmp_path).module
    assert not any(each.training for each in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_no_tensor_is_left_without_values(tmp_path):
    for network in (Plain(), Computed(), Tied()):
        module = loaded(network, tmp_path).module
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


def test_half_precision_weights_are_loaded_into_the_networks_own_dtype(tmp_path):
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in Plain().state_dict().items()},
        tmp_path / "weights.pth",
    )
    module = model.load(described("Plain", tmp_path)).module
    assert module.fc.weight.dtype == torch.float32


def test_a_default_argument_is_named_when_it_is_what_has_to_change(tmp_path):
    torch.save(Plain(size=6).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match=r"set model\.arguments\.size to 6 \(config\.yaml:4:3\)"):
        model.load(described("Plain", tmp_path))


def test_a_constructor_that_fails_is_the_configs_mistake_with_its_place(tmp_path):
    torch.save(Plain().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ArchitectureError, match=r"cannot be built from \(size='four'\)") as caught:
        model.load(described("Plain", tmp_path, size="four"))
    assert "config.yaml:4:3" in caught.value.hint


def test_an_untrusted_network_is_refused(tmp_path):
    torch.save(Plain().state_dict(), tmp_path / "weights.pth")
    network = Network("tests.test_model:Plain", {}, str(tmp_path / "weights.pth"), ("pipeline.architectures",), PLACES)
    with pytest.raises(UnsafeError):
        model.load(network)


def test_building_shapes_draws_no_values_and_imports_no_compiler():
    program = (
        "import sys, torch\nfrom pipeline.model import shapes_only\n"
        "with shapes_only():\n    made = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.LSTM(4, 4))\n"
        "assert all(each.is_meta for each in made.parameters())\nassert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
