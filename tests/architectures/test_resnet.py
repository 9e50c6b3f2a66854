from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.architectures.resnet import ResNet
from pipeline.errors import ArchitectureError

# torchvision's convolutions in its order, each with its normalisation; the shapes are of the weights.
RESNET18 = """
conv1 bn1 64 3 7 7
layer1.0.conv1 layer1.0.bn1 64 64 3 3
layer1.0.conv2 layer1.0.bn2 64 64 3 3
layer1.1.conv1 layer1.1.bn1 64 64 3 3
layer1.1.conv2 layer1.1.bn2 64 64 3 3
layer2.0.conv1 layer2.0.bn1 128 64 3 3
layer2.0.conv2 layer2.0.bn2 128 128 3 3
layer2.0.downsample.0 layer2.0.downsample.1 128 64 1 1
layer2.1.conv1 layer2.1.bn1 128 128 3 3
layer2.1.conv2 layer2.1.bn2 128 128 3 3
layer3.0.conv1 layer3.0.bn1 256 128 3 3
layer3.0.conv2 layer3.0.bn2 256 256 3 3
layer3.0.downsample.0 layer3.0.downsample.1 256 128 1 1
layer3.1.conv1 layer3.1.bn1 256 256 3 3
layer3.1.conv2 layer3.1.bn2 256 256 3 3
layer4.0.conv1 layer4.0.bn1 512 256 3 3
layer4.0.conv2 layer4.0.bn2 512 512 3 3
layer4.0.downsample.0 layer4.0.downsample.1 512 256 1 1
layer4.1.conv1 layer4.1.bn1 512 512 3 3
layer4.1.conv2 layer4.1.bn2 512 512 3 3
"""
RESNET50 = """
conv1 bn1 64 3 7 7
layer1.0.conv1 layer1.0.bn1 64 64 1 1
layer1.0.conv2 layer1.0.bn2 64 64 3 3
layer1.0.conv3 layer1.0.bn3 256 64 1 1
layer1.0.downsample.0 layer1.0.downsample.1 256 64 1 1
layer1.1.conv1 layer1.1.bn1 64 256 1 1
layer1.1.conv2 layer1.1.bn2 64 64 3 3
layer1.1.conv3 layer1.1.bn3 256 64 1 1
layer1.2.conv1 layer1.2.bn1 64 256 1 1
layer1.2.conv2 layer1.2.bn2 64 64 3 3
layer1.2.conv3 layer1.2.bn3 256 64 1 1
layer2.0.conv1 layer2.0.bn1 128 256 1 1
layer2.0.conv2 layer2.0.bn2 128 128 3 3
layer2.0.conv3 layer2.0.bn3 512 128 1 1
layer2.0.downsample.0 layer2.0.downsample.1 512 256 1 1
layer2.1.conv1 layer2.1.bn1 128 512 1 1
layer2.1.conv2 layer2.1.bn2 128 128 3 3
layer2.1.conv3 layer2.1.bn3 512 128 1 1
layer2.2.conv1 layer2.2.bn1 128 512 1 1
layer2.2.conv2 layer2.2.bn2 128 128 3 3
layer2.2.conv3 layer2.2.bn3 512 128 1 1
layer2.3.conv1 layer2.3.bn1 128 512 1 1
layer2.3.conv2 layer2.3.bn2 128 128 3 3
layer2.3.conv3 layer2.3.bn3 512 128 1 1
layer3.0.conv1 layer3.0.bn1 256 512 1 1
layer3.0.conv2 layer3.0.bn2 256 256 3 3
layer3.0.conv3 layer3.0.bn3 1024 256 1 1
layer3.0.downsample.0 layer3.0.downsample.1 1024 512 1 1
layer3.1.conv1 layer3.1.bn1 256 1024 1 1
layer3.1.conv2 layer3.1.bn2 256 256 3 3
layer3.1.conv3 layer3.1.bn3 1024 256 1 1
layer3.2.conv1 layer3.2.bn1 256 1024 1 1
layer3.2.conv2 layer3.2.bn2 256 256 3 3
layer3.2.conv3 layer3.2.bn3 1024 256 1 1
layer3.3.conv1 layer3.3.bn1 256 1024 1 1
layer3.3.conv2 layer3.3.bn2 256 256 3 3
layer3.3.conv3 layer3.3.bn3 1024 256 1 1
layer3.4.conv1 layer3.4.bn1 256 1024 1 1
layer3.4.conv2 layer3.4.bn2 256 256 3 3
layer3.4.conv3 layer3.4.bn3 1024 256 1 1
layer3.5.conv1 layer3.5.bn1 256 1024 1 1
layer3.5.conv2 layer3.5.bn2 256 256 3 3
layer3.5.conv3 layer3.5.bn3 1024 256 1 1
layer4.0.conv1 layer4.0.bn1 512 1024 1 1
layer4.0.conv2 layer4.0.bn2 512 512 3 3
layer4.0.conv3 layer4.0.bn3 2048 512 1 1
layer4.0.downsample.0 layer4.0.downsample.1 2048 1024 1 1
layer4.1.conv1 layer4.1.bn1 512 2048 1 1
layer4.1.conv2 layer4.1.bn2 512 512 3 3
layer4.1.conv3 layer4.1.bn3 2048 512 1 1
layer4.2.conv1 layer4.2.bn1 512 2048 1 1
layer4.2.conv2 layer4.2.bn2 512 512 3 3
layer4.2.conv3 layer4.2.bn3 2048 512 1 1
"""


def _expected_shapes(table, features):
    shapes = {}
    for line in table.split("\n")[1:-1]:
        convolution, norm, *sizes = line.split()
        shape = tuple(map(int, sizes))
        shapes[f"{convolution}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes | {"fc.weight": (1000, features), "fc.bias": (1000,)}


def _parameters(network):
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize(
    ("depth", "table", "features", "entries"), [(18, RESNET18, 512, 122), (50, RESNET50, 2048, 320)]
)
def test_names_order_and_shapes_are_those_of_torchvision(depth, table, features, entries):
    state = ResNet(depth=depth).state_dict()
    assert len(state) == entries
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(
        _expected_shapes(table, features).items()
    )


# The counts torchvision documents: resnet18, 34, 50, 101 and 152, resnext50_32x4d, wide_resnet50_2.
@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"depth": 18}, 11689512),
        ({"depth": 34}, 21797672),
        ({"depth": 50}, 25557032),
        ({"depth": 101}, 44549160),
        ({"depth": 152}, 60192808),
        ({"depth": 50, "groups": 32, "width_per_group": 4}, 25028904),
        ({"depth": 50, "width_per_group": 128}, 68883240),
    ],
)
def test_parameter_counts_are_those_of_torchvision(arguments, parameters):
    with torch.device("meta"):
        assert _parameters(ResNet(**arguments)) == parameters


def _reference(state, image):
    """The published forward over the names of a state dict, with the stride in the first 3×3 convolution of a layer."""

    def convolve(x, name, norm, stride=1):
        weight = state[f"{name}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, eps=1e-5)

    x = functional.max_pool2d(convolve(image, "conv1", "bn1", stride=2).relu(), 3, stride=2, padding=1)
    for block in dict.fromkeys(
        key.rsplit(".", 2)[0] for key in state if key.startswith("layer") and "downsample" not in key
    ):
        strided = block.endswith(".0") and block != "layer1.0"
        last = 3 if f"{block}.conv3.weight" in state else 2
        shortcut, y = x, x
        for number in range(1, last + 1):
            stride = 2 if strided and number == last - 1 else 1
            y = convolve(y, f"{block}.conv{number}", f"{block}.bn{number}", stride)
            y = y if number == last else y.relu()
        if f"{block}.downsample.0.weight" in state:
            shortcut = convolve(x, f"{block}.downsample.0", f"{block}.downsample.1", 2 if strided else 1)
        x = (y + shortcut).relu()
    return functional.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_the_published_forward_over_the_same_names(depth):
    torch.manual_seed(depth)
    network = ResNet(depth=depth, num_classes=9).double().eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if "running" in key or "bn" in key or "downsample.1" in key:
                value.copy_(torch.rand(value.shape) + 0.5)
        image = torch.randn(2, 3, 65, 48, dtype=torch.float64)
        torch.testing.assert_close(network(image), _reference(network.state_dict(), image))


def test_an_unknown_depth_is_refused_with_the_known_ones():
    with pytest.raises(ArchitectureError, match="no depth 20") as caught:
        ResNet(depth=20)
    assert caught.value.hint == "set model.arguments.depth to 18 (there are 18, 34, 50, 101 and 152)"


@pytest.mark.parametrize("arguments", [{"groups": 32}, {"width_per_group": 128}])
def test_groups_are_refused_where_there_is_no_bottleneck(arguments):
    with pytest.raises(ArchitectureError, match="depth 34 takes no groups"):
        ResNet(depth=34, **arguments)
