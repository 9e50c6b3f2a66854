from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.architectures.facenet import PNet

# What facenet-pytorch 2.6.0 itself returns, in float64, for `_waves(13, 15)`.
PUBLISHED_BOX = [
    -0.06723865873912331, -0.014763561506658827, 0.12481135530307239,
    -0.021679190424384466, 0.047800315796055676, 0.23971631256031659,
    -0.2826522130369114, -0.2292403264884776, -0.10637801580189409,
    -0.13888263965338105, -0.024374666122690986, 0.07877438438707247,
    -0.09594090164881587, 0.009699280717307399, -0.041469682141679245,
    -0.18274602265297502, 0.01653816343607525, 0.010901851617665395,
    -0.03174332042954313, 0.08820399139609125, 0.014797374864255221,
    0.05262544008668219, 0.16470051620919676, 0.17015644049281758,
]  # fmt: skip
PUBLISHED_FACE = [
    0.001602705880543827, 0.00024329938012366582, 3.106741151908715e-05,
    8.536679669161052e-05, 0.00016816002599965508, 0.00030418099307081913,
]  # fmt: skip


def _waves(height, width):
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in (height, width))
    return torch.stack([torch.sin(rows[:, None] * f) * torch.cos(columns * f * 1.5) for f in (0.3, 0.5, 0.9)])[None]


def test_equals_the_published_outputs(weights):
    network = PNet().double().eval()
    network.load_state_dict(weights("facenet-pnet"))
    with torch.no_grad():
        box, probability = network(_waves(13, 15))
    torch.testing.assert_close(box, torch.tensor(PUBLISHED_BOX, dtype=torch.float64).reshape(1, 4, 2, 3))
    torch.testing.assert_close(probability[:, 1].flatten(), torch.tensor(PUBLISHED_FACE, dtype=torch.float64))
    torch.testing.assert_close(probability.sum(1), torch.ones(1, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (12, 13), (13, 12), (15, 20), (37, 46), (101, 64)])
def test_the_pool_equals_the_published_one_with_ceil_mode(height, width):
    torch.manual_seed(0)
    network = PNet().double().eval()
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        features = functional.max_pool2d(network.prelu1(network.conv1(image)), 2, 2, ceil_mode=True)
        features = network.prelu3(network.conv3(network.prelu2(network.conv2(features))))
        box, probability = network(image)
        assert torch.equal(box, network.conv4_2(features))
        assert torch.equal(probability, network.conv4_1(features).softmax(1))


def test_each_cell_judges_its_own_12x12_window():
    torch.manual_seed(0)
    network = PNet().double().eval()
    image = torch.randn(1, 3, 26, 20, dtype=torch.float64)
    with torch.no_grad():
        box, probability = network(image)
        assert box.shape == (1, 4, 8, 5)
        for row, column in ((0, 0), (7, 4), (3, 2)):
            top, left = 2 * row, 2 * column
            window = network(image[:, :, top : top + 12, left : left + 12])
            torch.testing.assert_close(window[0][..., 0, 0], box[..., row, column])
            torch.testing.assert_close(window[1][..., 0, 0], probability[..., row, column])
