"""What the words of a tensor's name say: the field's synonyms, and which words exclude one another."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYNONYMS = """
query: q wq query
key: k wk key
value: v wv value
attention: q k v o wq wk wv query key value attn att attention mha mhsa sa selfattention
self: sa self selfattention
out: o wo out output
in: in input inputs
expand: intermediate expand
contract: contract
mlp: mlp ffn ff feedforward intermediate
norm: norm layernorm ln batchnorm bn groupnorm gn rmsnorm instancenorm normalization
linear: linear lin dense fc proj projection
conv: conv convolution cnn
embed: embed emb embedding embedder embeddings wte wpe
token: tok token tokens word wte
position: pos position positions positional wpe
encoder: enc encoder
decoder: dec decoder
head: head classifier
class: cls class
before: pre before
after: post after
weight: weight gamma scale gain
bias: bias beta shift offset
mean: mean mu
variance: var variance logvar
log: log logvar
skip: skip shortcut downsample identity
residual: res residual
source: src source
target: tgt target
forward: fwd forward
backward: bwd backward reverse
pool: pool pooler pooling
"""
"""One meaning a line, with the words that have it; a word may have several."""

_PHRASES = (
    (r"token_?type", "segment"),
    (r"feed_?forward", "mlp"),
    (r"(enc_?dec|encoder_?decoder|encoder)_?att(n|ention)", "cross_attention"),
    # What comes after attention may be the next layer's as well as its own.
    (r"(post|after)_?(self_?)?(attention|attn|mlp|ffn|feed_?forward)", "after"),
    (r"parametrizations\.(\w+)\.original0", r"\1_g"),  # what weight norm calls weight_g and weight_v since torch 2.0
    (r"parametrizations\.(\w+)\.original1", r"\1_v"),
    (r"(?<=[a-z])[123]d(?=\b|_)", ""),  # the rank of a layer, as in conv2d
)
_EXCLUSIVE = (
    {"query", "key", "value", "out"},
    {"weight", "bias", "mean", "variance", "kernel"},  # a kernel of TensorFlow or Flax is a weight transposed
    {"up", "down", "gate"},
    {"before", "after"},
    {"ih", "hh"},
    {"left", "right"},
    {"source", "target"},
    {"forward", "backward"},
)
_COPIES = {"ema", "average", "avg", "averaged", "copy", "shadow", "teacher", "momentum", "swa", "backup", "old"}
_GENERIC = {
    "norm", "linear", "conv", "embed", "layer", "block", "module", "model", "net", "network", "stage", "stack", "unit",
    "cell", "part", "branch", "tower", "weight",
}  # fmt: skip
"""What a tensor is, but not which: two of these weigh as much as one word that tells."""

_LETTERS = {"q", "k", "v", "o"}
_ALIKE = 4
"""Two words that nobody listed are the same if one begins with the other, from this length on."""


def _by_word() -> dict[str, tuple[str, ...]]:
    lines = [line.partition(": ")[::2] for line in _SYNONYMS.strip().splitlines()]
    words = {word for _, line in lines for word in line.split()}
    return {word: tuple(meaning for meaning, line in lines if word in line.split()) for word in words}


_MEANINGS = _by_word()


@lru_cache(maxsize=65536)
def meanings(name: str, *, letters: bool = True) -> frozenset[str]:
    """Return what the words of a name mean, without its numbers: {"attention", "query"} for `attn.q_proj`, and "linear".

    Without `letters`, q, k, v and o are letters: one of them by itself may be any.
    """
    words = [word for word in _words_of(name) if not word.isdecimal()]
    return frozenset(
        meaning for word in words for meaning in ((word,) if word in _LETTERS and not letters else _meanings_of(word))
    )


def has_letters(names: Iterable[str]) -> bool:
    """Tell whether letters stand for words in these names: q and k beside each other."""
    return len(_LETTERS & {word for name in names for word in _words_of(name)}) > 1


@lru_cache(maxsize=65536)
def numbered(name: str) -> tuple[tuple[str, int], ...]:
    """Return a name's numbers, each with the word that it follows: (("layer", 3), ("norm", 1)) for `layers.3.norm1`."""
    found, last = [], ""
    for word in _words_of(name):
        if word.isdecimal():
            found.append((last, int(word)))
        else:
            last = _meanings_of(word)[0]
    return tuple(found)


@lru_cache(maxsize=65536)
def likeness(first: frozenset[str], second: frozenset[str]) -> float:
    """Return how many meanings two names share; those that many tensors have weigh half."""
    shared = {(meaning, meaning) for meaning in first & second}
    shared |= {(a, b) for a in first - second for b in second - first if _begins(a, b)}
    return sum(0.5 if a in _GENERIC or b in _GENERIC else 1.0 for a, b in shared)


def is_copy(said: frozenset[str]) -> bool:
    """Tell whether a name says that it is of a second set of weights: what else it says tells nothing then."""
    return bool(said & _COPIES)


@lru_cache(maxsize=65536)
def excluded(first: frozenset[str], second: frozenset[str]) -> bool:
    """Tell whether two names say opposite things, as query and key do."""
    return any(first & each and second & each and not first & second & each for each in _EXCLUSIVE)


def _words_of(name: str) -> list[str]:
    lowered = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    for pattern, meant in _PHRASES:
        lowered = re.sub(pattern, meant, lowered)
    return re.findall(r"[a-z]+|\d+", lowered)


def _meanings_of(word: str) -> tuple[str, ...]:
    known = _MEANINGS.get(word) or _MEANINGS.get(_singular(word))
    return known or (_singular(word),)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _begins(first: str, second: str) -> bool:
    return min(len(first), len(second)) >= _ALIKE and (first.startswith(second) or second.startswith(first))
