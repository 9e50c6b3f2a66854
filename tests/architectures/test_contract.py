"""What every network promises, over one table: it loads, agrees with its float64 copy, and exports."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.export import Dim

from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.efficientnet import EfficientNetLite
from pipeline.architectures.facenet import PNet
from pipeline.architectures.resnet import ResNet
from pipeline.architectures.silero_vad import SileroVAD
from pipeline.architectures.simplenet import SimpleNet

Tensors = tuple[torch.Tensor, ...]

BATCH = Dim("batch", min=1, max=8)
LENGTH = Dim("length", min=1, max=256)


@dataclass(frozen=True)
class Network:
    build: Callable[[], nn.Module]
    draw: Callable[..., Tensors]  # batch size, and sizes of the other dynamic dimensions
    shown: tuple[int, ...]  # sizes an exporter sees
    others: tuple[tuple[int, ...], ...]  # sizes it does not see
    dynamic: tuple[dict[int, Dim], ...]  # input by input: axis → dimension


def _word_pieces(batch: int, length: int) -> Tensors:
    ids = torch.randint(0, 30522, (batch, length))
    ends = torch.randint(1, length + 1, (batch, 1))
    return ids, (torch.arange(length) < ends).long(), torch.randint(0, 2, (batch, length))


NETWORKS = {
    "simplenet": Network(SimpleNet, lambda n: (torch.randn(n, 10),), (3,), ((1,), (5,)), ({0: BATCH},)),
    "silero-vad": Network(
        SileroVAD,
        lambda n: (0.1 * torch.randn(n, 576), torch.rand(2, n, 128) * 2 - 1),
        (3,),
        ((1,), (5,)),
        ({0: BATCH}, {1: BATCH}),
    ),
    "facenet-pnet": Network(
        PNet,
        lambda n, height, width: (torch.rand(n, 3, height, width) * 2 - 1,),
        (2, 13, 14),
        ((1, 13, 13), (3, 64, 37), (1, 31, 512)),
        ({0: BATCH, 2: Dim("height", min=13, max=512), 3: Dim("width", min=13, max=512)},),
    ),
    "efficientnet-lite0": Network(
        EfficientNetLite, lambda n: (torch.randn(n, 3, 64, 64),), (2,), ((1,), (3,)), ({0: BATCH},)
    ),
    "minilm": Network(
        partial(BertEncoder, layers=2), _word_pieces, (2, 3), ((1, 1), (3, 17), (1, 256)), ({0: BATCH, 1: LENGTH},) * 3
    ),
    "resnet18": Network(ResNet, lambda n: (torch.randn(n, 3, 64, 64),), (2,), ((1,), (3,)), ({0: BATCH},)),
}  # fmt: skip
PUBLISHED = {
    "simplenet": SimpleNet,
    "silero-vad": SileroVAD,
    "facenet-pnet": PNet,
    "efficientnet-lite0": EfficientNetLite,
    "minilm": BertEncoder,
}


@cache
def _build(name: str) -> nn.Module:
    """Return a network that no test may change: exporting leaves it as it is."""
    torch.manual_seed(1)
    return NETWORKS[name].build().eval()


def _run(network: Callable[..., torch.Tensor | Tensors], inputs: Tensors) -> Tensors:
    with torch.no_grad():
        outputs = network(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _doubled(inputs: Tensors) -> Tensors:
    return tuple(each.double() if each.is_floating_point() else each for each in inputs)


def _assert_equal(network: nn.Module, exported: Callable[..., Tensors], name: str) -> None:
    entry = NETWORKS[name]
    for sizes in (entry.shown, *entry.others):
        inputs = entry.draw(*sizes)
        torch.testing.assert_close(_run(exported, inputs), _run(network, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_load_strictly_and_float32_stays_close_to_float64(name, weights):
    single = PUBLISHED[name]().eval()
    single.load_state_dict(weights(name))
    double = copy.deepcopy(single).double()
    inputs = NETWORKS[name].draw(*NETWORKS[name].others[-1])
    for got, expected in zip(_run(single, inputs), _run(double, _doubled(inputs)), strict=True):
        assert expected.dtype == torch.float64
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_does_not_depend_on_the_rest_of_its_batch(name):
    entry, network = NETWORKS[name], copy.deepcopy(_build(name)).double()
    inputs = _doubled(entry.draw(3, *entry.shown[1:]))
    together = _run(network, inputs)
    axes = [next(axis for axis, dimension in each.items() if dimension is BATCH) for each in entry.dynamic]
    alone = _run(network, tuple(each.narrow(axis, 1, 1) for each, axis in zip(inputs, axes, strict=True)))
    for row, rows in zip(alone, together, strict=True):
        axis = next(axis for axis in range(rows.ndim) if row.shape[axis] != rows.shape[axis])
        torch.testing.assert_close(row, rows.narrow(axis, 1, 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_torch_export_serves_all_sizes(name):
    entry, network = NETWORKS[name], _build(name)
    program = torch.export.export(network, entry.draw(*entry.shown), dynamic_shapes=entry.dynamic, strict=False)
    _assert_equal(network, program.module(), name)


@pytest.mark.parametrize("method", ["trace", "script"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_torchscript_serves_all_sizes(name, method):
    network = _build(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        if method == "trace":
            exported = torch.jit.trace(network, NETWORKS[name].draw(*NETWORKS[name].shown))
        else:
            exported = torch.jit.script(network)
    _assert_equal(network, exported, name)
