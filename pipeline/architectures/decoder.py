"""A decoder of transformers for one step of generation: what was computed before goes in, and comes out, as plain tensors.

transformers keeps keys and values in a `Cache`, an object that no exported file can take. Here it is made of tensors when the
network is called, with whole keys and values for every layer: also where the network looks back only so far, which is then for its
mask to say. It is imported when such a network is built, and needed by nobody else.

Source: `DynamicCache` and `DynamicLayer` of transformers.cache_utils
(https://huggingface.co/docs/transformers/en/kv_cache).
"""

import functools
import inspect
from typing import Any

from torch import Tensor, nn

from pipeline.errors import ArchitectureError

NAMES = ("cache", "past_key_values")
"""What transformers calls the parameter, the newest name first."""


def with_cache(model: nn.Module) -> nn.Module:
    """Return a decoder of transformers with another forward; the names of its weights stay what they are.

    `forward(input_ids, past, attention_mask, **others)` takes the tokens [batch, sequence] that are new, `past` with a key and a
    value [batch, heads, past, width] for each layer, the mask [batch, past + sequence] of both, and whatever else the network takes
    by name. It returns the tensors that the network returns by their names, and `past` as it is after these tokens.
    """
    own = type(model)
    original = own.forward
    parameter = next((name for name in NAMES if name in inspect.signature(original).parameters), None)
    if parameter is None:
        raise ArchitectureError(
            f"{own.__name__}.forward takes nothing of what was computed before ({', '.join(NAMES)})",
            hint="name the network itself as the architecture: it has no cache",
        )

    def forward(
        self: nn.Module,
        input_ids: Tensor,
        past: list[dict[str, Tensor]],
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        cache = _cache_of(past)
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "use_cache": True,
            parameter: cache,
            **others,
        }
        result = original(self, **given)
        found: dict[str, Any] = {name: each for name, each in result.items() if isinstance(each, Tensor)}
        return {**found, "past": [{"key": each.keys, "value": each.values} for each in cache.layers]}

    model.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})
    return model


def _cache_of(past: list[dict[str, Tensor]]) -> Any:
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    cache.layers = [_layer_class()(each["key"], each["value"]) for each in past]
    return cache


@functools.cache
def _layer_class() -> Any:
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):  # type: ignore[misc]  # transformers is not there where types are checked
        """Keys and values that are there from the start, of whatever length: 0 is no other case than 5."""

        def __init__(self, keys: Tensor, values: Tensor) -> None:
            super().__init__()
            self.keys, self.values, self.device, self.is_initialized = keys, values, keys.device, True

        def get_seq_length(self) -> int:
            return self.keys.shape[-2]

    return Layer
