"""Small networks that exporters refuse or get wrong: each the least of a kind that networks others wrote showed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


@torch.library.custom_op("weighbridge_reproductions::doubled", mutates_args=())
def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@_doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class OwnOperator(nn.Module):
    """Calls an operator that only its author knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _doubled(x)


class Histogram(nn.Module):
    """Counts over the range of its values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(x, bins=4)


class Triangular(nn.Module):
    """Solves a system of every sequence's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lower = torch.tril(x @ x.transpose(1, 2), -1) + torch.eye(x.shape[1])
        return torch.linalg.solve_triangular(lower, x, upper=False)


class HiddenRows(nn.Module):
    """`mask` (batch, length, length) may hide every position from one."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=mask[:, None])


class Loop(nn.Module):
    """A recurrence, step by step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x[:, 0]
        for step in range(1, x.shape[1]):
            state = state * 0.5 + x[:, step]
        return state


class Listed(nn.Module):
    """As if every image had a size of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = [x.shape[1]] * x.shape[0]
        return torch.cat([image[:size] for image, size in zip(x, sizes, strict=True)])


class BranchOnSize(nn.Module):
    """Sums what is short."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1) if x.shape[1] < 5 else x.mean(1)


class BranchOnValues(nn.Module):
    """Doubles what is small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.max() < 3 else x


class Skipping(nn.Module):
    """Hides what is to come, unless the mask hides nothing and nobody is exporting it."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        exporting = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not exporting and mask.all():
            return x.mean(1, keepdim=True).expand_as(x)
        kept = mask.to(x.dtype)[..., None]
        return (x * kept).cumsum(1) / kept.cumsum(1)


class Squeezed(nn.Module):
    """Squeezes a dimension of 4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(2)


class Clamps(nn.Module):
    """Clamps what was clamped, twice."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (x * 2).clamp(-10, 10)
        return x.clamp(-1, 1), x.clamp(-2, 2)


class Strided(nn.Module):
    """Pairs of neighbours, by strides."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        return x.as_strided((batch, length - 1, 2, width), (x.stride(0), x.stride(1), x.stride(1), 1))


class PaddedWindows(nn.Module):
    """Windows of 4 steps, 2 apart, beyond both ends."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x, (0, 0, 1, 3)).unfold(1, 4, 2)


class Repeated(nn.Module):
    """Heads by a view, and a repetition beside it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads = x.view(*x.shape[:-1], -1, 4)
        return heads, x[..., :2].repeat_interleave(3, dim=-1)


class Permuted(nn.Module):
    """A transposition, counted from behind."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, -1, -2)


class Unfolded(nn.Module):
    """Windows of 2 steps, along a dimension counted from behind."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unfold(-2, 2, 1)


class SmallEpsilon(nn.Module):
    """A norm by hand of values that are about as small as its epsilon."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1e-4
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8)
