"""The networks of the zoo by name, each made small and with seeded weights."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.zoo import small
from benchmarks.zoo.layers import BATCH, LAYERS
from pipeline.rebuild.declarations import Ranges, declarations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.rebuild.declarations import Declared

SEED = 0
RANGES = Ranges(batch=BATCH["max"], longest=24, side=96, samples=4000, tokens=128, any_image=True)
_MOST_RECIPES = 8


def names() -> list[str]:
    """Return the names of all networks: "family/network"."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return [
        *(f"transformers/{each}" for each in sorted(MODEL_MAPPING_NAMES)),
        *(f"torch.nn/{each}" for each in LAYERS),
        *(f"pytorchcv/{each}" for each in _VISION),
    ]


def build(name: str, recipe: int = 0) -> nn.Module:
    """Return a network in eval mode, the same weights every time; of those that are made small by a recipe, the one of that number.

    Raises:
        LookupError: it cannot be made so.
    """
    family, _, which = name.partition("/")
    warnings.filterwarnings("ignore")
    torch.manual_seed(SEED)
    if family == "transformers":
        return _transformer(which, recipe).eval()
    return {"torch.nn": _layer, "pytorchcv": _vision}[family](which).eval()


def recipes(name: str) -> int:
    """Return how many recipes there are for a network."""
    return _MOST_RECIPES if name.startswith("transformers/") else 1


def declared(name: str, module: nn.Module) -> Iterator[Declared]:
    """Yield what may be declared to go into a network, the widest first."""
    family, _, which = name.partition("/")
    if family == "transformers":
        yield from declarations(module, RANGES)
    elif family == "torch.nn":
        yield LAYERS[which].inputs, LAYERS[which].dimensions
    else:
        for side in ({"min": 64, "max": 160, "multiple_of": 32}, None):
            size = ["height", "width"] if side else [64, 64]
            sides = {"height": side, "width": side} if side else {}
            yield {"x": {"dtype": "float32", "shape": ["batch", 3, *size]}}, {"batch": BATCH, **sides}
        for side in (32, 224):
            yield {"x": {"dtype": "float32", "shape": ["batch", 3, side, side]}}, {"batch": BATCH}


@cache
def _parameters(model_type: str, recipe: int) -> int:
    return small.parameters(next(islice(small.configs(model_type), recipe, None)))


def _transformer(model_type: str, recipe: int) -> nn.Module:
    from transformers import AutoModel

    config = next(islice(small.configs(model_type), recipe, None), None)
    if config is None:
        raise LookupError("no recipe gives a config")
    try:
        if (count := _parameters(model_type, recipe)) > small.MOST_PARAMETERS:
            raise LookupError(f"{count:,} parameters")
        torch.manual_seed(SEED)
        return AutoModel.from_config(config)
    except Exception as error:
        raise LookupError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _layer(which: str) -> nn.Module:
    return LAYERS[which].make()


_VISION = {
    "resnet10": "resnet", "preresnet10": "preresnet", "seresnet10": "seresnet", "squeezenet_v1_1": "squeezenet", "squeezeresnet_v1_1": "squeezenet",
    "mobilenet_wd4": "mobilenet", "fdmobilenet_wd4": "fdmobilenet", "mobilenetv2_wd4": "mobilenetv2", "mobilenetv3_small_wd2": "mobilenetv3", "shufflenet_g1_wd4": "shufflenet",
    "shufflenetv2_wd2": "shufflenetv2", "menet108_8x1_g3": "menet", "igcv3_wd4": "igcv3", "mnasnet_small": "mnasnet", "proxylessnas_mobile": "proxylessnas", "fbnet_cb": "fbnet",
    "darknet_tiny": "darknet", "bninception": "bninception", "hardnet39ds": "hardnet", "ghostnet": "ghostnet", "peleenet": "peleenet", "lwopenpose2d_mobilenet_cmupan_coco": "lwopenpose_cmupan",
    "nin_cifar10": "nin_cifar", "resnet20_cifar10": "resnet_cifar", "preresnet20_cifar10": "preresnet_cifar", "densenet40_k12_cifar10": "densenet_cifar", "espnetv2_wd2": "espnetv2",
    "efficientnet_b0": "efficientnet", "lednet_cityscapes": "lednet", "esnet_cityscapes": "esnet", "linknet_cityscapes": "linknet",
}  # fmt: skip


def _vision(which: str) -> nn.Module:
    module: Any = importlib.import_module(f"pytorchcv.models.{_VISION[which]}")
    made: nn.Module = getattr(module, which)(pretrained=False)
    generator = torch.Generator().manual_seed(SEED)
    for name, each in made.named_buffers():
        # What training leaves in a batch norm; a mean of 0 and a variance of 1 would hide what is done with them.
        if name.endswith("running_mean"):
            each.copy_(torch.randn(each.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            each.copy_(torch.rand(each.shape, generator=generator) + 0.5)
    return made
