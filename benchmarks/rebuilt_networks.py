"""Ten small networks of common kinds, each as it was trained, to be rebuilt wrongly: see `benchmarks/wrong_rebuilds.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name of it

from pipeline.interface import Dimension, InputSpec, Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Mlp(nn.Module):
    def __init__(self, width: int = 16, temperature: float = 1.0, residual: bool = False, scale: str = "none") -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(12, width), nn.Linear(width, width), nn.Linear(width, 5)
        self.act, self.temperature, self.residual, self.scale = nn.ReLU(), temperature, residual, scale

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.act(self.mid(x))
        y = x + y if self.residual else y
        y = F.normalize(y, dim=-1) if self.scale == "norm" else y
        return self.head(y) / self.temperature


class Cnn(nn.Module):
    def __init__(self, pool: str = "mean", slope: float = 0.01) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.drop, self.fc, self.pool = nn.LeakyReLU(slope), nn.Dropout(0.2), nn.Linear(8, 4), pool

    def forward(self, image):
        x = self.act(self.bn1(self.conv1(image)))
        x = self.act(self.bn2(self.conv2(x)))
        x = x.mean((2, 3)) if self.pool == "mean" else x.amax((2, 3))
        return self.fc(self.drop(x))


class UNet(nn.Module):
    def __init__(self, mode: str = "nearest", groups: int = 2) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, 6), nn.GroupNorm(groups, 6)
        self.up, self.out, self.act, self.mode = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 2, 1), nn.SiLU(), mode

    def forward(self, image):
        first = self.act(self.norm1(self.down1(image)))
        second = self.act(self.norm2(self.down2(first)))
        second = F.interpolate(second, scale_factor=2, mode=self.mode)
        return self.out(self.act(self.up(torch.cat([first, second], 1))))


class Vit(nn.Module):
    def __init__(self, heads: int = 4, pool: str = "first", pre_norm: bool = True) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(16) for _ in range(3))
        self.attention = nn.MultiheadAttention(16, heads, batch_first=True)
        self.fc1, self.fc2, self.act, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 6)
        self.pool, self.pre_norm = pool, pre_norm

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm1(x) if self.pre_norm else x
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x if self.pre_norm else self.norm1(x)
        x = self.norm(x + self.fc2(self.act(self.fc1(self.norm2(x)))))
        return self.head(x[:, 0] if self.pool == "first" else x.mean(1))


class Gpt(nn.Module):
    def __init__(self, heads: int = 2, theta: float = 10000.0, causal: bool = True, tied: bool = False) -> None:
        super().__init__()
        self.word, self.norm1, self.norm2 = nn.Embedding(40, 16), nn.RMSNorm(16, eps=1e-6), nn.RMSNorm(16, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.act, self.head, self.heads, self.theta = nn.SiLU(), nn.Linear(16, 40, bias=False), heads, theta
        self.causal, self.tied = causal, tied

    def _turned(self, x):
        half = x.shape[-1] // 2
        angles = torch.arange(x.shape[-2])[:, None] / self.theta ** (torch.arange(half) / half)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, ids):
        x = self.word(ids)
        y = self.norm1(x)
        q, k, v = (
            each(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        x = x + self.down(self.act(self.gate(y)) * self.up(y))
        return F.linear(x, self.word.weight) if self.tied else self.head(x)


class Tagger(nn.Module):
    def __init__(self, backwards: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.word, self.rnn = nn.Embedding(30, 12), nn.GRU(12, 12, 2, batch_first=True)
        self.norm, self.tag, self.backwards, self.scale = nn.LayerNorm(12), nn.Linear(12, 7), backwards, scale

    def forward(self, ids):
        x = self.word(ids) * self.scale
        x, _ = self.rnn(x.flip(1) if self.backwards else x)
        return self.tag(self.norm(x))


class WaveNet(nn.Module):
    def __init__(self, order: str = "gate last", gain: float = 1.0) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 8, 3, padding=1)
        self.filters = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.skips, self.end = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3)), nn.Conv1d(8, 1, 1)
        self.act, self.order, self.gain = nn.Tanh(), order, gain

    def forward(self, x):
        x, total = self.start(x), 0
        filters, gates = (self.gates, self.filters) if self.order == "gate first" else (self.filters, self.gates)
        for each, gate, skip in zip(filters, gates, self.skips, strict=True):
            y = skip(self.act(each(x)) * gate(x).sigmoid())
            x, total = x + y * self.gain, total + y
        return self.end(total.relu())


class Siamese(nn.Module):
    def __init__(self, metric: str = "difference") -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm, self.joint = (
            nn.Linear(10, 10),
            nn.Linear(10, 10),
            nn.LayerNorm(10),
            nn.Linear(20, 1),
        )
        self.act, self.metric = nn.ELU(), metric

    def forward(self, left, right):
        left, right = (self.norm(self.fc2(self.act(self.fc1(each)))) for each in (left, right))
        joined = [left - right, left] if self.metric == "difference" else [left * right, left]
        return self.joint(torch.cat(joined, -1))


class Translator(nn.Module):
    def __init__(self, heads: int = 3, scaled: bool = True) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(6, 12), nn.Linear(6, 12)
        self.norm_source, self.norm_target = nn.LayerNorm(12), nn.LayerNorm(12)
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.final, self.act, self.heads, self.scaled = nn.Linear(12, 4), nn.GELU(), heads, scaled

    def forward(self, source, target):
        memory, state = self.norm_source(self.source(source)), self.norm_target(self.target(target))
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(state), self.key(memory), self.value(memory))
        )
        scores = q @ k.transpose(2, 3) / (q.shape[-1] ** 0.5 if self.scaled else 1.0)
        return self.final(self.act(state + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))))


class Restorer(nn.Module):
    def __init__(self, clamp: bool = True, beta: float = 0.2) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.second, self.norm2 = nn.Conv2d(8, 8, 5, padding=2), nn.InstanceNorm2d(8, affine=True)
        self.last, self.act, self.clamp, self.beta = nn.Conv2d(8, 3, 3, padding=1), nn.PReLU(8), clamp, beta

    def forward(self, image):
        x = self.act(self.norm1(self.first(image)))
        x = x + self.beta * self.act(self.norm2(self.second(x)))
        out = image + self.last(x)
        return out.clamp(-1, 1) if self.clamp else out


@dataclass(frozen=True)
class Trained:
    """A network with the arguments it was trained with, other values of arguments that shapes do not tell, and its interface."""

    name: str
    make: Callable[..., nn.Module]
    interface: Interface
    arguments: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def _face(*inputs: tuple[str, str, tuple[int | str, ...]]) -> Interface:
    specs = [
        InputSpec(name, dtype, shape, *((0, 30, "uniform") if dtype == "int64" else ()))
        for name, dtype, shape in inputs
    ]
    used = {size for _, _, shape in inputs for size in shape}
    dims = [each for each in (Dimension("batch", 1, 4), Dimension("length", 2, 12)) if each.name in used]
    return Interface(tuple(specs), tuple(dims), ("y",))


TRAINED = (
    Trained("mlp", Mlp, _face(("x", "float32", ("batch", 12))), {"temperature": 2.5, "residual": True}, {"temperature": (1.0, 2.0), "residual": (False,), "scale": ("norm",)}),
    Trained("cnn", Cnn, _face(("image", "float32", ("batch", 3, 8, 8))), {"pool": "max", "slope": 0.2}, {"pool": ("mean",), "slope": (0.01, 0.1)}),
    Trained("unet", UNet, _face(("image", "float32", ("batch", 1, 8, 8))), {"mode": "bilinear", "groups": 3}, {"mode": ("nearest",), "groups": (2, 6)}),
    Trained("vit", Vit, _face(("image", "float32", ("batch", 3, 16, 16))), {"heads": 8}, {"heads": (4, 2), "pool": ("mean",), "pre_norm": (False,)}),
    Trained("gpt", Gpt, _face(("ids", "int64", ("batch", "length"))), {"heads": 4, "theta": 5e5}, {"heads": (2, 1), "theta": (1e4,), "causal": (False,), "tied": (True,)}),
    Trained("tagger", Tagger, _face(("ids", "int64", ("batch", "length"))), {"scale": 12**0.5}, {"scale": (1.0,), "backwards": (True,)}),
    Trained("wavenet", WaveNet, _face(("x", "float32", ("batch", 1, 32))), {"gain": 0.5}, {"gain": (1.0,), "order": ("gate first",)}),
    Trained("siamese", Siamese, _face(("left", "float32", ("batch", 10)), ("right", "float32", ("batch", 10))), {}, {"metric": ("product",)}),
    Trained("translator", Translator, _face(("source", "float32", ("batch", "length", 6)), ("target", "float32", ("batch", "length", 6))), {"heads": 2}, {"heads": (3, 4), "scaled": (False,)}),
    Trained("restorer", Restorer, _face(("image", "float32", ("batch", 3, 8, 8))), {"beta": 0.5}, {"beta": (0.2,), "clamp": (False,)}),
)  # fmt: skip
