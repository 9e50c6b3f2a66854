"""Attention layers of a state dict, told by their query, key and value weights."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Shape = tuple[int, ...]

# The last part of a module's name, for each of several matrices or for all in one.
_EACH = re.compile(
    r"(?:(?:w|to|linear|fc)_?)?(?P<role>q|k|v|kv|query|key|value|queries|keys|values)(?:_?(?:proj|lin|linear|layer|net))?",
    re.IGNORECASE,
)
_FUSED = re.compile(r"(?:(?:w|to|attn)_?)?qkv(?:_?(?:proj|linear))?|c_attn|query_key_value", re.IGNORECASE)
_PACKED = re.compile(r"in_proj|(?P<role>[qkv])_proj")  # of nn.MultiheadAttention, whose weights are no modules
_CROSS = re.compile(r"cross|encoder_attn|encdec|enc_attn|src_attn|multihead_attn|attn2", re.IGNORECASE)
_ENCODER = re.compile(r"(?:^|\.)(?:\w+_)?encoder(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention layer: the module it is in, and the width of what its queries come from."""

    owner: str
    width: int

    @property
    def is_cross(self) -> bool:
        """Whether its keys come from elsewhere, as its name says."""
        return bool(_CROSS.search(self.owner))

    @property
    def is_encoder(self) -> bool:
        """Whether it is in an encoder, as its name says."""
        return bool(_ENCODER.search(self.owner))


def attentions(shapes: Mapping[str, Shape]) -> dict[str, Attention]:
    """Return the attention layers by the name of each of their query, key and value weights (name → shape of a state dict)."""
    roles: dict[str, dict[str, str]] = defaultdict(dict)
    found: dict[str, Attention] = {}
    for name, shape in shapes.items():
        owner, leaf = _split(name)
        if len(shape) < 2 or leaf is None:
            continue
        if _FUSED.fullmatch(leaf) or (leaf == "in_proj" and _is_packed(owner, shape, shapes)):
            # Rows are outputs, but for the layers of GPT-2.
            found[name] = Attention(owner, min(shape[:2]))
        elif match := _EACH.fullmatch(leaf):
            roles[owner][match["role"][:2].lower() if match["role"].lower() == "kv" else match["role"][0].lower()] = (
                name
            )
    for owner, names in roles.items():
        if "q" in names and {"k", "kv"} & names.keys():
            found |= dict.fromkeys(names.values(), Attention(owner, shapes[names["q"]][1]))
    return found


def _split(name: str) -> tuple[str, str | None]:
    """Return the owner of a weight's module, and what that is called there; None for what is no weight."""
    module, _, last = name.rpartition(".")
    if last == "weight":
        owner, _, leaf = module.rpartition(".")
        return owner, leaf
    packed = last.removesuffix("_weight")
    return module, packed if packed != last and _PACKED.fullmatch(packed) else None


def _is_packed(owner: str, shape: Shape, shapes: Mapping[str, Shape]) -> bool:
    """Tell whether what is called in_proj makes queries, keys and values: three of the width that goes out again."""
    out = shapes.get(f"{owner}.out_proj.weight" if owner else "out_proj.weight")
    return shape[0] == 3 * shape[1] and out is not None and out[0] == shape[1]
