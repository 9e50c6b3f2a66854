"""What network a state dict likely belongs to, from its names and shapes alone."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]

_SHOWN = 10

_ATTENTION = re.compile(
    r"(?:^|\.)(?:q_proj|k_proj|v_proj|query|key|value|in_proj|qkv|c_attn|query_key_value|q_lin|to_q|to_k)[._]?weight$"
    r"|(?:^|\.)in_proj_weight$"
)
_RECURRENT = re.compile(r"weight_hh(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?$")
_VOCABULARY = re.compile(r"word_embeddings|wte|tok(?:en)?_emb|embed_tokens|shared")
_INDEX = re.compile(r"\.(\d+)\.")


def likely(shapes: Mapping[str, Shape]) -> str | None:
    """Return a one-line guess at the network (name → shape), or None where nothing tells."""
    return next((text for recognise in (_transformer, _recurrent, _cnn, _linear) if (text := recognise(shapes))), None)


def _transformer(shapes: Mapping[str, Shape]) -> str | None:
    found = {name: shape for name, shape in shapes.items() if _ATTENTION.search(name) and len(shape) == 2}
    if not found:
        return None
    # A fused matrix is a multiple of the width on one side, so that the smaller side is the width.
    width = max(min(shape) for shape in found.values())
    layers = {match.group(1) for name in found if (match := _INDEX.search(f".{name}"))}
    vocabulary = [s[0] for n, s in shapes.items() if len(s) == 2 and s[1] == width and _VOCABULARY.search(n)]
    parts = [f"width {width}", f"{len(layers) or 1} layers", *(f"vocabulary {size}" for size in vocabulary[:1])]
    return f"a transformer: {', '.join(parts)} (the number of heads is not in the shapes)"


def _recurrent(shapes: Mapping[str, Shape]) -> str | None:
    found = {match: shape for name, shape in shapes.items() if (match := _RECURRENT.search(name)) and len(shape) == 2}
    if not found:
        return None
    gates, hidden = next(iter(found.values()))
    cell = {4: "LSTM", 3: "GRU", 1: "RNN"}.get(gates // hidden if hidden else 0, "recurrent network")
    layers = {match["layer"] for match in found}
    ways = ", both directions" if any(match["reverse"] for match in found) else ""
    return (
        f"{'an' if cell in ('LSTM', 'RNN') else 'a'} {cell}: hidden size {hidden}, {_count(len(layers), 'layer')}{ways}"
    )


def _cnn(shapes: Mapping[str, Shape]) -> str | None:
    kernels = [shape for name, shape in shapes.items() if name.endswith("weight") and len(shape) in (3, 4, 5)]
    if not kernels:
        return None
    dimensions = {3: "1-D", 4: "2-D", 5: "3-D"}[len(kernels[0])]
    last = [shape for name, shape in shapes.items() if name.endswith("weight") and len(shape) == 2]
    ends = f", {last[-1][0]} outputs" if last else ""
    shortcuts = ", with shortcuts" if any("downsample" in name or "shortcut" in name for name in shapes) else ""
    many = _count(len(kernels), f"{dimensions} convolution")
    return f"a convolutional network: {many}{shortcuts}, {kernels[0][1]} input channels{ends}"


def _linear(shapes: Mapping[str, Shape]) -> str | None:
    """Recognise layers that feed one another: 10 → 20 → 2."""
    chain = list(_chain([shape for shape in shapes.values() if len(shape) == 2]))
    if not chain or any(len(shape) > 2 for shape in shapes.values()):
        return None
    sizes = [*map(str, chain[:_SHOWN]), *(["…", str(chain[-1])] if len(chain) > _SHOWN else [])]
    return f"a stack of {_count(len(chain) - 1, 'linear layer')}: {' → '.join(sizes)}"


def _chain(matrices: list[Shape]) -> Iterator[int]:
    fits = all(second[1] == first[0] for first, second in itertools.pairwise(matrices))
    if matrices and fits:
        yield matrices[0][1]
        yield from (shape[0] for shape in matrices)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
