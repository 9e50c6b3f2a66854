"""Networks whose arguments the shapes of their weights decide in part, for what a checkpoint says of the rest."""

import functools
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn


class Net(nn.Module):
    """Widths are in the shapes; what is done between the layers is not."""

    def __init__(
        self,
        inputs: int = 8,
        width: int = 16,
        classes: int = 2,
        temperature: float = 1.0,
        residual: bool = False,
        activation: str = "relu",
    ):
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, classes)
        self.temperature, self.residual, self.activation = temperature, residual, getattr(torch, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.stem(x))
        y = self.activation(self.mid(x))
        return self.head(x + y if self.residual else y) / self.temperature


class Pool(Enum):
    MEAN = 1
    LAST = 2


class Many(nn.Module):
    """An argument of each kind."""

    def __init__(  # noqa: PLR0917 - one of each kind
        self,
        widths: list[int],
        strides: tuple[int, ...] = (1, 1),
        clip: float | None = None,
        head: int | None = None,
        act: type[nn.Module] = nn.ReLU,
        pool: Pool = Pool.MEAN,
        norm: Literal["none", "batch"] = "none",
        padding: Literal["zeros", "circular"] = "zeros",
        extra: dict[str, Any] | None = None,
        device: str | None = None,  # noqa: ARG002 - as torch's own layers take it
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(one, two, 3, padding=1, padding_mode=padding) for one, two in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm == "batch" else nn.Identity() for width in widths[1:])
        self.head = nn.Linear(widths[-1], head) if head else nn.Identity()
        self.strides, self.clip, self.act, self.pool, self.extra = strides, clip, act(), pool, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x.mean(-1) if self.pool is Pool.MEAN else x[..., -1])


class Attention(nn.Module):
    """Shapes tell the number of heads times the width of each, and neither alone."""

    def __init__(self, dim: int = 32, heads: int = 8, dim_head: int = 64):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * heads * dim_head), nn.Linear(heads * dim_head, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def build(width: int = 16, temperature: float = 1.0, **rest: Any) -> Net:
    return Net(width=width, temperature=temperature, **rest)


def counted(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


@counted
def decorated(width: int, temperature: float = 1.0) -> Net:
    return Net(width=width, temperature=temperature)


def from_dict(config: dict[str, Any]) -> Net:
    return Net(**config)
