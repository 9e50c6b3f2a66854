"""A step of a decoder of transformers: what it keeps between two calls, as inputs and outputs; and which networks have no such step.

Found out by running the network once on a few tokens. Runs transformers' code, so it belongs into a worker.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError
from pipeline.rebuild.declarations import steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from pipeline.rebuild.declarations import Declared

STEP = "pipeline.architectures.decoder:with_cache"
"""What makes a step of a decoder, as a config names it."""
_GROWING = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""What transformers calls the keys and values of a layer that grow with every token."""
_PLAIN = "leave out --with-cache: then every call takes the whole sequence"


def step(module: Any) -> tuple[nn.Module, Iterator[Declared]]:
    """Return a network that takes and returns keys and values of every layer, and what may be declared for it, the best first.

    Raises:
        ArchitectureError: it keeps none, or something else.
    """
    from pipeline.architectures.decoder import with_cache

    past = {
        f"past.{index}.{name}": tuple(tensor.shape)
        for index, layer in enumerate(_layers(module))
        for name, tensor in (("key", layer.keys), ("value", layer.values))
    }
    return with_cache(module), steps(module, past)


def _layers(module: Any) -> list[Any]:
    """Return what the network keeps of three tokens, layer by layer."""
    from pipeline.architectures.decoder import NAMES

    name = type(module).__name__
    if getattr(module.config, "is_encoder_decoder", False):
        raise _refused(
            f"{name} is an encoder and a decoder, which keep two caches: one that grows, and one of what was encoded",
            "leave out --with-cache: then encoder and decoder are released as one network",
        )
    taken = inspect.signature(module.forward).parameters
    if not {"input_ids", "use_cache"} <= taken.keys() or not taken.keys() & set(NAMES):
        raise _refused(f"{name} takes nothing of what it computed before", "leave out --with-cache")
    cache = _kept(module)
    if cache is None:
        raise _refused(f"{name} keeps nothing of what it computed, as a decoder does", "leave out --with-cache")
    layers = list(getattr(cache, "layers", ()))
    others = Counter(type(each).__name__ for each in layers or (cache,) if type(each).__name__ not in _GROWING)
    if others:
        told = ", ".join(f"{each} ({count} of {len(layers) or 1})" for each, count in others.items())
        raise _refused(f"{name} keeps something else than keys and values of every layer: {told}", _PLAIN)
    return layers


def _kept(module: Any) -> Any:
    """Return what the network gives to go on from; None where it gives nothing."""
    import torch

    from pipeline.architectures.decoder import NAMES

    ids = torch.tensor([[1, 2, 3]]) % int(getattr(module.config.get_text_config(), "vocab_size", None) or 4)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = module(input_ids=ids, use_cache=True)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise _refused(
            f"{type(module).__name__} fails on three tokens: {type(error).__name__}: {told}", _PLAIN
        ) from error
    return next((each for name in NAMES if (each := getattr(result, name, None)) is not None), None)


def _refused(why: str, hint: str) -> ArchitectureError:
    return ArchitectureError(f"there is no step with a cache: {why}", hint=hint)
