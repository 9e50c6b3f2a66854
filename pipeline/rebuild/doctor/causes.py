"""What likely makes a state dict and a network differ: another head, a rewritten layer, another network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.rebuild.doctor.difference import Difference


def likely_causes(difference: Difference) -> Iterator[str]:
    """Yield, in plain sentences, what the differences look like."""
    yield from _transposed(difference)
    yield from _head(difference)
    yield from rewritten_layers(difference)


def unrelated(difference: Difference) -> Iterator[str]:
    """Say so where a file and a network have no name in common."""
    if not difference.misshaped and len(difference.missing) == len(difference.expected):
        yield "not one name is in both: these look like weights of another architecture"


def _transposed(difference: Difference) -> Iterator[str]:
    turned = [name for name, found, want in difference.misshaped if found == want[::-1] and len(found) == 2]
    if turned:
        yield (
            f"{len(turned)} tensors are transposed, such as {turned[0]}: one side uses Linear [out, in], the other "
            "Conv1D or TensorFlow's [in, out]; transpose them where the weights were made"
        )


def _head(difference: Difference) -> Iterator[str]:
    """Recognise a network that differs in its last layer only, as after transfer learning."""
    modules = {name.rpartition(".")[0] for name, *_ in difference.misshaped}
    if (
        difference.missing
        or difference.unexpected
        or len(modules) != 1
        or len(difference.found) <= len(difference.misshaped)
    ):
        return
    name, found, want = difference.misshaped[0]
    only_first = all(f[1:] == w[1:] for _, f, w in difference.misshaped)
    if only_first and found and want:
        module = name.rpartition(".")[0] or name
        yield f"only {module} differs: {found[0]} outputs in the file, {want[0]} in the network"


_REWRITES = (
    (r"(weight_g|weight_v|parametrizations\.\w+\.original[01])$", "weight normalisation: remove it before saving"),
    (r"(_packed_params|\.scale|\.zero_point)", "quantised layers: save the state dict before quantising"),
    (r"(in_proj_weight|qkv\.weight|c_attn\.weight|query_key_value\.weight)$", "query, key and value in one fused matrix"),
    (r"lora_[AB]", "LoRA adapters: call merge_and_unload before saving"),
)  # fmt: skip


def rewritten_layers(difference: Difference) -> Iterator[str]:
    """Recognise layers that one side has in another form."""
    for pattern, meaning in _REWRITES:
        theirs = [name for name in difference.unexpected if re.search(pattern, name)]
        ours = [name for name in difference.missing if re.search(pattern, name)]
        for names, side in ((theirs, "the file"), (ours, "the network")):
            if names and bool(theirs) != bool(ours):
                yield f"{side} has {len(names)} names like {names[0]}, which the other lacks: {meaning}"
