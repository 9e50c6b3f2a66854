"""Layers of torch.nn as people use them: recurrent ones and attention of any length, parametrised convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = {"min": 1, "max": 4}


@dataclass(frozen=True)
class Layer:
    """Layers of torch.nn as a network: what makes them, what goes in."""

    make: Callable[[], nn.Module]
    inputs: dict[str, dict[str, Any]]
    dimensions: dict[str, dict[str, int]]


class Recurrent(nn.Module):
    """A recurrent layer with a head on every step, or with its state in and out."""

    def __init__(self, kind: str, *, stateful: bool = False, **arguments: Any):
        super().__init__()
        self.layer = getattr(nn, kind)(6, 8, **arguments)
        width = (arguments.get("proj_size") or 8) * (2 if arguments.get("bidirectional") else 1)
        self.head, self.stateful = nn.Linear(width, 3), stateful

    def forward(self, x: torch.Tensor, state0: torch.Tensor | None = None, state1: torch.Tensor | None = None) -> Any:
        if not self.stateful:
            return self.head(self.layer(x)[0])
        y, after = self.layer(x, state0 if state1 is None else (state0, state1))
        return (self.head(y), *(after if isinstance(after, tuple) else (after,)))


class Attention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself, with a mask of padding or a causal one."""

    def __init__(self, *, causal: bool = False, **arguments: Any):
        super().__init__()
        self.attention, self.causal = nn.MultiheadAttention(16, 4, batch_first=True, **arguments), causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype) if self.causal else None
        found: torch.Tensor = self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return found


class Last(nn.Module):
    """The last step of a recurrent layer, as classifiers of sequences take it."""

    def __init__(self, kind: str, **arguments: Any):
        super().__init__()
        self.layer = getattr(nn, kind)(6, 8, batch_first=True, **arguments)
        self.head = nn.Linear(8 * (2 if arguments.get("bidirectional") else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layer(x)[0][:, -1])
        return found


class Encoded(nn.Module):
    """An embedding with learned positions before nn.TransformerEncoder, pooled by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Embedding(64, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        y = self.encoder(x)
        kept = mask.to(y.dtype)[..., None]
        return (y * kept).sum(1) / kept.sum(1)


class Translated(nn.Module):
    """nn.Transformer, encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(source, target)
        return found


class Convolved(nn.Module):
    """Convolutions over a sequence with normalised weights and a transposed one back."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(
            norm(nn.Conv1d(4, 8, 5, stride=2, padding=2)), nn.LeakyReLU(0.1), norm(nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


_TIMES = {"batch": BATCH, "time": {"min": 1, "max": 24}}
_FIRST = {"x": {"dtype": "float32", "shape": ["batch", "time", 6]}}
_SECOND = {"x": {"dtype": "float32", "shape": ["time", "batch", 6]}}
_WIDE = {"x": {"dtype": "float32", "shape": ["batch", "time", 16]}}


def _with_state(count: int, layers: int, *, inputs: dict[str, Any] = _SECOND) -> dict[str, Any]:
    return inputs | {f"state{index}": {"dtype": "float32", "shape": [layers, "batch", 8]} for index in range(count)}


LAYERS: dict[str, Layer] = {
    "lstm": Layer(lambda: Recurrent("LSTM"), _SECOND, _TIMES),
    "lstm-batch-first": Layer(lambda: Recurrent("LSTM", batch_first=True), _FIRST, _TIMES),
    "lstm-bidirectional": Layer(lambda: Recurrent("LSTM", batch_first=True, bidirectional=True), _FIRST, _TIMES),
    "lstm-two-layers": Layer(lambda: Recurrent("LSTM", batch_first=True, num_layers=2), _FIRST, _TIMES),
    "lstm-projected": Layer(lambda: Recurrent("LSTM", batch_first=True, proj_size=4), _FIRST, _TIMES),
    "lstm-without-bias": Layer(lambda: Recurrent("LSTM", batch_first=True, bias=False), _FIRST, _TIMES),
    "lstm-state": Layer(lambda: Recurrent("LSTM", stateful=True), _with_state(2, 1), _TIMES),
    "lstm-last": Layer(lambda: Last("LSTM", num_layers=2, bidirectional=True), _FIRST, _TIMES),
    "gru": Layer(lambda: Recurrent("GRU"), _SECOND, _TIMES),
    "gru-batch-first": Layer(lambda: Recurrent("GRU", batch_first=True), _FIRST, _TIMES),
    "gru-bidirectional": Layer(lambda: Recurrent("GRU", bidirectional=True, num_layers=2), _SECOND, _TIMES),
    "gru-state": Layer(lambda: Recurrent("GRU", stateful=True), _with_state(1, 1), _TIMES),
    "gru-last": Layer(lambda: Last("GRU"), _FIRST, _TIMES),
    "rnn-tanh": Layer(lambda: Recurrent("RNN", batch_first=True), _FIRST, _TIMES),
    "rnn-relu": Layer(lambda: Recurrent("RNN", nonlinearity="relu", num_layers=2), _SECOND, _TIMES),
    "rnn-state": Layer(lambda: Recurrent("RNN", stateful=True, num_layers=2), _with_state(1, 2), _TIMES),
    "attention": Layer(lambda: Attention(), _WIDE, _TIMES),  # noqa: PLW0108 - defined as the others
    "attention-causal": Layer(lambda: Attention(causal=True), _WIDE, _TIMES),
    "attention-bias-kv": Layer(lambda: Attention(add_bias_kv=True), _WIDE, _TIMES),
    "attention-zero": Layer(lambda: Attention(add_zero_attn=True), _WIDE, _TIMES),
    "encoder": Layer(
        Encoded,
        {"ids": {"dtype": "int64", "shape": ["batch", "time"], "low": 0, "high": 50}, "mask": {"dtype": "int64", "shape": ["batch", "time"], "values": "mask"}},
        _TIMES,
    ),
    "transformer": Layer(
        Translated,
        {"source": {"dtype": "float32", "shape": ["batch", "time", 16]}, "target": {"dtype": "float32", "shape": ["batch", "steps", 16]}},
        _TIMES | {"steps": {"min": 1, "max": 16}},
    ),
    "weight-norm": Layer(
        lambda: Convolved(nn.utils.parametrizations.weight_norm),
        {"x": {"dtype": "float32", "shape": ["batch", 4, "time"]}},
        {"batch": BATCH, "time": {"min": 4, "max": 32, "multiple_of": 2}},
    ),
    "spectral-norm": Layer(
        lambda: Convolved(nn.utils.parametrizations.spectral_norm),
        {"x": {"dtype": "float32", "shape": ["batch", 4, "time"]}},
        {"batch": BATCH, "time": {"min": 4, "max": 32, "multiple_of": 2}},
    ),
}  # fmt: skip
