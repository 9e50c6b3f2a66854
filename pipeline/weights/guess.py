"""What network a state dict likely belongs to, from its names and shapes alone: what is there, and nothing that is not."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.weights.attention import attentions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.weights.attention import Attention

Shape = tuple[int, ...]

_SHOWN = 10
_CHAINED = 3  # sizes of two layers
_DIGITS = 6
_SMALLEST_PATCH = 4
_MOST_LISTED = 3
_MANY = 4
_MOST_SIZES = 1_000

_WEIGHT = re.compile(r"(?:^|[._])weight(?:_v|_orig|\.original1?)?$")
_RECURRENT = re.compile(r"(?P<owner>.*?)\.?weight_(?P<part>ih|hh|hr)(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?$")
_TABLE = re.compile(r"(?:^|[._])(?:wte|wpe|shared|lookup|emb\w*|\w*embeddings?|\w*_embed)(?:\.\d+)?\.weight$")
_NO_TABLE = re.compile(r"proj|linear|dense|fc|mlp")
_NO_WORDS = re.compile(r"pos|type|segment|wpe|patch|relative|time|class|speaker", re.IGNORECASE)
_IN_BLOCK = re.compile(r"\b\d+\.\w+\.")
_LORA = re.compile(r"(?:^|[._])lora_(?:A|down)(?:[._]|$)")
_EXPERT = re.compile(r"(?:^|[._])experts?(?:[._]|$)")
_SHORTCUT = re.compile(r"downsample|shortcut")
_DIMENSIONS = {3: "1-D", 4: "2-D", 5: "3-D"}
_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}


def likely(shapes: Mapping[str, Shape]) -> str | None:
    """Return a one-line guess at the network (name → shape), or None where nothing tells."""
    if adapter := _adapter(shapes):
        return adapter
    parts = _Parts(_in_order(shapes))
    if parts.is_transformer:
        return _transformer(parts)
    if parts.recurrent or parts.tables or (parts.attention and not parts.convolutions):
        return _chained(parts)
    return _convolutional(parts) if parts.convolutions else _stack(parts.linears)


def _adapter(shapes: Mapping[str, Shape]) -> str | None:
    """Recognise pairs of matrices that are added to another network's: LoRA, which is no network by itself."""
    pairs = [each for name, each in shapes.items() if _LORA.search(name) and len(each) > 1]
    if not pairs or 2 * len(pairs) < len(shapes):
        return None
    ranks = sorted({shape[0] for shape in pairs})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return f"a LoRA adapter: {_count(len(pairs), 'pair')} of matrices, {rank}, to be added to the weights of the network it was made for"


@dataclass(frozen=True)
class _Parts:
    """The tensors of a state dict by the kind of their layer, in the order in which they are given."""

    shapes: Mapping[str, Shape]

    @cached_property
    def matrices(self) -> dict[str, Shape]:
        """The weights that make one number of features of another: (made, taken, *kernel)."""
        weights = {name: shape for name, shape in self.shapes.items() if len(shape) > 1 and _WEIGHT.search(name)}
        return {
            name: (shape[1], shape[0], *shape[2:]) if name in self.transposed else shape
            for name, shape in weights.items()
        }

    @cached_property
    def transposed(self) -> set[str]:
        """The kernels of transposed convolutions, as far as their bias tells: it has what is made, on the other side."""
        biases = {name: self.shapes.get(f"{name.removesuffix('weight')}bias") for name in self.shapes}
        kernels = {name: shape for name, shape in self.shapes.items() if len(shape) in _DIMENSIONS}
        return {name for name, shape in kernels.items() if biases[name] == shape[1:2] != shape[:1]}

    @cached_property
    def attention(self) -> dict[str, Attention]:
        """The attention layers, by each of their weights."""
        return attentions(self.shapes)

    @cached_property
    def is_transformer(self) -> bool:
        """Whether attention is what it is made of: with layers that feed forward, and not between many convolutions."""
        layers = set(self.attention.values())
        own = sum(not each.is_cross for each in layers)
        has_more = own >= _MANY or len(self.linears) >= 2 * own
        kernels = sum(len(shape) > 3 and "patch" not in name for name, shape in self.convolutions.items())
        return bool(layers) and not self.recurrent and has_more and kernels <= 2 * len(layers)

    @cached_property
    def recurrent(self) -> dict[str, dict[str, Shape]]:
        """The weights of recurrent layers, by their module."""
        found: dict[str, dict[str, Shape]] = defaultdict(dict)
        for name, shape in self.shapes.items():
            if (match := _RECURRENT.match(name)) and len(shape) == 2:
                found[match["owner"]][name] = shape
        return {owner: held for owner, held in found.items() if any("weight_hh" in name for name in held)}

    @cached_property
    def tables(self) -> dict[str, Shape]:
        """The embeddings: tables that are looked up in, without a bias."""
        named = {n: s for n, s in self.matrices.items() if len(s) == 2 and _TABLE.search(n) and not _NO_TABLE.search(n)}
        return {n: s for n, s in named.items() if f"{n.removesuffix('weight')}bias" not in self.shapes}

    @cached_property
    def convolutions(self) -> dict[str, Shape]:
        """The kernels of convolutions."""
        kernels = {name: shape for name, shape in self.matrices.items() if len(shape) in _DIMENSIONS}
        return {name: shape for name, shape in kernels.items() if name not in self.attention}

    @cached_property
    def linears(self) -> dict[str, Shape]:
        """The matrices of linear layers outside of attention, whose own last one is part of it."""
        others = {*self.tables, *self.attention, *(name for held in self.recurrent.values() for name in held)}
        owners = {each.owner for each in self.attention.values()}
        found = {name: shape for name, shape in self.matrices.items() if len(shape) == 2 and name not in others}
        return {n: s for n, s in found.items() if not owners or n.rpartition(".")[0].rpartition(".")[0] not in owners}

    @cached_property
    def is_ordered(self) -> bool:
        """Whether the order is that of the layers: in one by name a bias comes before its weight."""
        places = {name: index for index, name in enumerate(self.shapes)}
        biases = {name: places.get(f"{name.removesuffix('weight')}bias") for name in self.matrices}
        known = [places[name] < bias for name, bias in biases.items() if bias is not None]
        return any(known) if known else list(self.shapes) != sorted(self.shapes)

    @cached_property
    def depthwise(self) -> set[str]:
        """The convolutions that take each channel by itself: one goes in, and a layer before makes as many as come out.

        Where the order is not known, another layer must be the one that takes the network's input.
        """
        makers = Counter(shape[name in self.tables] for name, shape in self.matrices.items())
        found: set[str] = set()
        before: set[int] = set()
        for name, (count, taken, *kernel) in self.matrices.items():
            if self.is_ordered:
                is_made = bool({count, 2 * count, 3 * count} & before)  # a layer's result may be split
            else:
                is_made = makers[count] > 1 and self._takes_input
            if kernel and taken == 1 and count > 1 and is_made:
                found.add(name)
            before.add(taken if name in self.tables else count)
        return found

    @cached_property
    def _takes_input(self) -> bool:
        """Whether there is a layer that takes what no layer makes: neither one channel nor the pixels of several."""
        made = sorted(self.made(self.matrices) - {0, 1})[:_MOST_SIZES]
        taken = sorted(self.taken(self.matrices) - {1})[:_MOST_SIZES]
        return bool(self.tables) or any(all(size % each for each in made) for size in taken)

    def made(self, names: Iterable[str]) -> set[int]:
        """Return the numbers of features that layers make."""
        return {self.matrices[name][name in self.tables] for name in names}

    def taken(self, names: Iterable[str]) -> set[int]:
        """Return the numbers of features that layers take."""
        return {self.matrices[name][1] for name in names if name not in self.tables}

    def input_channels(self) -> int | None:
        """Return the channels that come in: those that convolutions take and no layer makes."""
        found = self.taken(n for n in self.convolutions if n not in self.depthwise) - self.made(self.matrices)
        return next(iter(found)) if len(found) == 1 else None

    def outputs(self) -> int | None:
        """Return what the last linear layer makes: the last in order, or the only one whose result no layer takes.

        None of a layer in one of several blocks, which adds to what came in.
        """
        last = list(self.matrices)[-1:] if self.is_ordered else list(self.matrices)
        ends = [name for name in last if name in self.linears and not _IN_BLOCK.search(name)]
        found = self.made(ends) - (set() if self.is_ordered else self.taken(self.matrices))
        return next(iter(found)) if len(found) == 1 else None

    def output_channels(self) -> int | None:
        """Return what the last convolution makes, where it is the last of all."""
        last = list(self.matrices)[-1]
        return self.matrices[last][0] if self.is_ordered and last in self.convolutions else None

    def width(self) -> int | None:
        """Return the size that more than half of the tensors have on a side, if there is one."""
        sizes = Counter(size for shape in self.shapes.values() for size in set(shape[:2]))
        size, count = sizes.most_common(1)[0]
        return size if 2 * count > len(self.shapes) else None


def _in_order(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return tensors that are sorted by name with 2 before 10, and others as they are."""
    if list(shapes) != sorted(shapes):
        return dict(shapes)
    parts = {name: re.sub(r"\d+", lambda number: number[0].zfill(_DIGITS), name) for name in shapes}
    return {name: shapes[name] for name in sorted(shapes, key=parts.__getitem__)}


def _transformer(parts: _Parts) -> str:
    layers = list(dict.fromkeys(parts.attention.values()))
    widths = sorted({each.width for each in layers})
    width = f"width {widths[0]}" if len(widths) == 1 else f"widths {widths[0]} to {widths[-1]}"
    patches = {n: s for n, s in parts.convolutions.items() if "patch" in n and len(s) == 4 and s[2] >= _SMALLEST_PATCH}
    kernels = [name for name in parts.convolutions if name not in patches]
    words = max((shape[0] for name, shape in parts.tables.items() if not _NO_WORDS.search(name)), default=None)
    outputs = parts.outputs()
    more = [
        *(f"patches of {shape[2]} × {shape[3]}" for shape in list(patches.values())[:1]),
        *([f"vocabulary {words}"] if words else []),
        *([f"{outputs} outputs"] if outputs and outputs not in {words, *widths} else []),
    ]
    kind = "a vision transformer" if patches else "a transformer"
    beside = [_kernels(parts, kernels)] if kernels else []
    described = ", ".join([width, _layers(layers), *more, *beside])
    return f"{kind}: {described} (the number of heads is not in the shapes)"


def _layers(layers: Sequence[Attention]) -> str:
    own = [each for each in layers if not each.is_cross]
    encoding = sum(each.is_encoder for each in own)
    if len(own) == len(layers):
        return _count(len(own), "layer")
    if encoding:
        return f"{encoding} encoder and {_count(len(own) - encoding, 'decoder layer')}"
    return f"{_count(len(own), 'layer')} with cross-attention"


def _chained(parts: _Parts) -> str:
    """Describe layers of several kinds, one after another where that is how they are."""
    kinds = {
        _tables(parts): list(parts.tables),
        _kernels(parts, list(parts.convolutions)): list(parts.convolutions),
        " and ".join(_recurrent(parts)): [name for held in parts.recurrent.values() for name in held],
        _attention(parts): list(parts.attention),
        _linears(parts): list(parts.linears),
    }
    places = {name: index for index, name in enumerate(parts.shapes)}
    spans = sorted((places[names[0]], places[names[-1]], text) for text, names in kinds.items() if names)
    texts = [text for _, _, text in spans]
    if len(texts) == 1:
        return texts[0].replace(" (", ": ").removesuffix(")")
    is_chain = parts.is_ordered and all(one[1] < other[0] for one, other in itertools.pairwise(spans))
    return ", then ".join(texts) if is_chain else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _tables(parts: _Parts) -> str:
    sizes = [f"{rows} × {width}" for rows, width in parts.tables.values()]
    if len(sizes) > _MOST_LISTED:
        return f"{len(sizes)} embeddings"
    return f"{'an embedding' if len(sizes) == 1 else 'embeddings'} of {' and '.join(sizes)}"


def _linears(parts: _Parts) -> str:
    outputs = parts.outputs()
    ends = f" ({_count(outputs, 'output')})" if outputs else ""
    return f"{_one(len(parts.linears), 'linear layer')}{ends}"


def _attention(parts: _Parts) -> str:
    layers = list(dict.fromkeys(parts.attention.values()))
    widths = " and ".join(map(str, sorted({each.width for each in layers})))
    return f"{'an attention layer' if len(layers) == 1 else f'{len(layers)} attention layers'} (width {widths})"


def _recurrent(parts: _Parts) -> list[str]:
    """Describe the recurrent layers, those that are alike together."""
    counts = Counter(_described(held) for held in parts.recurrent.values())
    return [
        f"{_article(cell)} {cell} ({size})" if count == 1 else f"{count} {cell}s (each {size})"
        for (cell, size), count in counts.items()
    ]


def _described(held: Mapping[str, Shape]) -> tuple[str, str]:
    """Return what a recurrent layer is, and of which size."""
    matches = [match for name in held if (match := _RECURRENT.match(name))]
    rows, columns = next(shape for name, shape in held.items() if "weight_hh" in name)
    is_projected = any(match["part"] == "hr" for match in matches)  # which only an LSTM is
    hidden = rows // 4 if is_projected else columns
    cell = _GATES.get(rows // hidden if hidden else 0, "recurrent layer")
    layers = {match["layer"] for match in matches}
    ways = ", both directions" if any(match["reverse"] for match in matches) else ""
    return cell, f"hidden size {hidden}, {_count(len(layers), 'layer')}{ways}"


def _convolutional(parts: _Parts) -> str:
    linears, outputs, width = len(parts.linears), parts.outputs(), parts.width()
    many = _kernels(parts, list(parts.convolutions))
    if linears > len(parts.convolutions):
        sizes = [*([f"{outputs} outputs"] if outputs else []), *([f"width {width}"] if width else [])]
        return ", ".join([f"a network of {_count(linears, 'linear layer')} and {many}", *sizes])
    said = [many, *([_attention(parts)] if parts.attention else [])]
    said += [_count(linears, "linear layer")] if linears > 1 or (linears and not outputs) else []
    made = parts.output_channels()
    said += [_count(outputs, "output")] if outputs else [_count(made, "output channel")] if made else []
    return f"a convolutional network: {', '.join(said)}"


def _kernels(parts: _Parts, names: Sequence[str]) -> str:
    """Describe convolutions: how many, of how many dimensions, and what they take."""
    counts = Counter(_DIMENSIONS[len(parts.shapes[name])] for name in names)
    many = " and ".join(_count(count, f"{dimensions} convolution") for dimensions, count in counts.items())
    kinds = {
        "depthwise": sum(name in parts.depthwise for name in names),
        "transposed": sum(name in parts.transposed for name in names),
    }
    told = [kind if count == len(names) else f"{count} {kind}" for kind, count in kinds.items() if count]
    kind = f" ({', '.join(told)})" if told else ""
    shortcuts = " with shortcuts" if any(_SHORTCUT.search(name) for name in names) else ""
    channels = parts.input_channels()
    taken = f", {_count(channels, 'input channel')}" if channels else ""
    return f"{many}{kind}{shortcuts}{taken}"


def _stack(linears: Mapping[str, Shape]) -> str | None:
    """Recognise layers that feed one another: 10 → 20 → 2; of others, such as experts, say how many there are."""
    matrices = list(linears.values())
    chain = [] if any(_EXPERT.search(name) for name in linears) else list(_chain(matrices))
    if len(chain) < _CHAINED:
        return (
            _one(len(matrices), "linear layer") + (f": {chain[0]} → {chain[1]}" if chain else "") if matrices else None
        )
    sizes = [*map(str, chain[:_SHOWN]), *(["…", str(chain[-1])] if len(chain) > _SHOWN else [])]
    return f"a stack of {_count(len(chain) - 1, 'linear layer')}: {' → '.join(sizes)}"


def _chain(matrices: Sequence[Shape]) -> Iterator[int]:
    fits = all(second[1] == first[0] for first, second in itertools.pairwise(matrices))
    if matrices and fits:
        yield matrices[0][1]
        yield from (shape[0] for shape in matrices)


def _one(number: int, noun: str) -> str:
    return f"a {noun}" if number == 1 else _count(number, noun)


def _article(noun: str) -> str:
    return "an" if noun in {"LSTM", "RNN"} else "a"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
