"""PNet: the proposal network of MTCNN, which finds candidate faces at one scale of an image.

Publication: K. Zhang, Z. Zhang, Z. Li, Y. Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", IEEE Signal Processing Letters 23(10), 2016, arXiv:1604.02878; layer names as in
facenet-pytorch 2.6.0, `models/mtcnn.py`. Weights: `pnet.pt` of that package, MIT licence.
"""

import torch
from torch import nn


class PNet(nn.Module):
    """A fully convolutional 12×12 face detector with stride 2, for images of any size from 12×12."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, kernel_size=3)
        self.prelu1 = nn.PReLU(10)
        self.conv2 = nn.Conv2d(10, 16, kernel_size=3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, kernel_size=3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, kernel_size=1)
        self.conv4_2 = nn.Conv2d(32, 4, kernel_size=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return box regressions, `[batch, 4, rows, columns]`, and probabilities, `[batch, 2, rows, columns]`.

        `image` is float `[batch, 3, height, width]`, RGB, (pixel - 127.5) / 128; rows = ceil((height - 2) / 2) - 4,
        columns likewise. Cell (i, j) judges the 12×12 window at pixel (2i, 2j). The box regressions are offsets of its
        left, top, right and bottom edges in units of the window; the second probability is that of a face, the first
        its complement.
        """
        features = self.prelu1(self.conv1(image))
        # Published as a pool with ceil_mode, whose size torch.export cannot express: it fixes height and width as odd or
        # even. One more row and column of edge values, and rounding down, give the same maxima.
        features = nn.functional.pad(features, (0, 1, 0, 1), mode="replicate")
        features = nn.functional.max_pool2d(features, kernel_size=2)
        features = self.prelu2(self.conv2(features))
        features = self.prelu3(self.conv3(features))
        return self.conv4_2(features), torch.softmax(self.conv4_1(features), dim=1)
