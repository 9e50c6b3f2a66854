"""ResNet, ResNeXt and Wide ResNet image classifiers.

Publications: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385; S. Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
arXiv:1611.05431; S. Zagoruyko, N. Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146. Layer names, and the
stride in a bottleneck's 3×3 convolution, as in torchvision, so that its weights files (BSD-3-Clause) load unchanged.
"""

import torch
from torch import nn

from pipeline.errors import ArchitectureError

# depth → blocks of each layer
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_PLANES = (64, 128, 256, 512)


class ResNet(nn.Module):
    """A residual network of 18, 34, 50, 101 or 152 layers, for images of any size from 32×32.

    `num_classes` is the number of the classifier's outputs. `groups` are those of a bottleneck's 3×3 convolution (32 in
    ResNeXt), `width_per_group` is its number of channels a group in layer 1 (4 or 8 in ResNeXt, 128 in Wide ResNet).
    Raises ArchitectureError for another depth, or if groups or width were given for depth 18 or 34.
    """

    def __init__(self, depth: int = 18, num_classes: int = 1000, groups: int = 1, width_per_group: int = 64) -> None:
        super().__init__()
        _check(depth, groups, width_per_group)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = 64
        layers: list[nn.Sequential] = []
        for planes, count in zip(_PLANES, (_BASIC | _BOTTLENECK)[depth], strict=True):
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 2 if index == 0 and planes > 64 else 1
                if depth in _BASIC:
                    blocks.append(_BasicBlock(channels, planes, stride))
                    channels = planes
                else:
                    width = planes * width_per_group // 64 * groups
                    blocks.append(_Bottleneck(channels, width, 4 * planes, stride, groups))
                    channels = 4 * planes
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map a float image `[batch, 3, height, width]`, RGB, normalised, to logits `[batch, num_classes]`."""
        features = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: torch.Tensor = self.fc(features.mean((2, 3)))
        return logits


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _downsample(channels, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """A 1×1 convolution to `width` channels, a 3×3 one, a 1×1 one to `channels_out`, and a shortcut."""

    def __init__(self, channels: int, width: int, channels_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _downsample(channels, channels_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(channels: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == channels_out:
        return None
    convolution = nn.Conv2d(channels, channels_out, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _check(depth: int, groups: int, width_per_group: int) -> None:
    if depth not in _BASIC | _BOTTLENECK:
        raise ArchitectureError(
            f"ResNet has no depth {depth}",
            hint="set model.arguments.depth to 18 (there are 18, 34, 50, 101 and 152)",
        )
    if depth in _BASIC and (groups, width_per_group) != (1, 64):
        raise ArchitectureError(
            f"ResNet of depth {depth} takes no groups={groups}, width_per_group={width_per_group}",
            hint="remove groups and width_per_group from model.arguments: depths from 50 on take them",
        )
