from __future__ import annotations

import pytest
import torch

from pipeline.architectures.efficientnet import EfficientNetLite
from pipeline.errors import ArchitectureError

# What efficientnet-lite-pytorch 0.1.0 itself returns, in float64, for `_waves()`: its five largest logits.
PUBLISHED = {
    906: 7.87771919609155,
    741: 7.760796632997849,
    911: 5.910567029020489,
    599: 5.70351022657334,
    949: 5.3465160194086305,
}


def _waves():
    steps = torch.arange(224, dtype=torch.float64)
    return torch.stack([torch.sin(steps[:, None] * f) * torch.cos(steps * f * 1.5) for f in (0.05, 0.1, 0.2)])[None]


def test_equals_the_published_logits(weights):
    network = EfficientNetLite().double().eval()
    network.load_state_dict(weights("efficientnet-lite0"))
    with torch.no_grad():
        logits = network(_waves())
    assert logits.shape == (1, 1000)
    top = logits[0].topk(5)
    assert top.indices.tolist() == list(PUBLISHED)
    assert top.values.tolist() == pytest.approx(list(PUBLISHED.values()), rel=1e-9)


# Parameters in millions as the publication tells them: 4.7, 5.4, 6.1, 8.2, 13.0.
@pytest.mark.parametrize(
    ("variant", "size", "parameters"),
    [(0, 224, 4652008), (1, 240, 5416680), (2, 260, 6092072), (3, 280, 8197096), (4, 300, 13006568)],
)
def test_each_variant_has_its_published_size_and_takes_its_image(variant, size, parameters):
    network = EfficientNetLite(variant=variant).eval()
    assert sum(each.numel() for each in network.parameters()) == parameters
    seen = {}
    network._conv_head.register_forward_hook(lambda _module, _inputs, output: seen.update(shape=output.shape))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 1000)
    assert seen["shape"][2:] == (-(-size // 32), -(-size // 32))


def test_the_classifier_can_have_another_size():
    assert EfficientNetLite(num_classes=7).state_dict()["_fc.weight"].shape == (7, 1280)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ArchitectureError, match="no variant 5") as caught:
        EfficientNetLite(variant=5)
    assert caught.value.hint == "set model.arguments.variant to 0 (there are 0 to 4)"
