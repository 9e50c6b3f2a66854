"""Networks, and what a wrong file may hold in their place."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn import functional


class Dies(nn.Module):
    """Ends the process that builds it."""

    def __init__(self) -> None:
        os.abort()


class MeanOfBatch(nn.Module):
    """A trace of it fixes the batch: a Python number divides."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).sum(0, keepdim=True).expand_as(x) / int(x.shape[0])


class Branch(nn.Module):
    """A trace of it fixes the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if float(x.abs().max()) < 20:
            x = x * 2
        return x


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Clamped(Plain):
    """Wrong for large values only, with no branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).clamp(-20, 20)


class BranchClamped(Branch):
    """Wrong where the network takes its branch, and not because of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        small = (x.abs().max() < 20).to(x.dtype)
        return (x * (1 + small)).clamp(-40, 40)


class OffInLargeBatches(Plain):
    """Wrong in one place, which is further from 0 in large batches than in small ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + 1e-3 * (self.fc(x) > 1.2)


class Masked(nn.Module):
    """The first row of a mask is whole: a batch of one hides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * mask[..., None]


class Unmasked(Masked):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + 0 * mask[..., None]


class Asking(Masked):
    """Looks at what is to come where the mask hides nothing, unless it is traced."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_tracing() and bool(mask.all()):
            return self.fc(x).mean(1, keepdim=True).expand_as(x)
        kept = mask.to(x.dtype).unsqueeze(-1)
        return (self.fc(x) * kept).cumsum(1) / kept.cumsum(1)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, src_key_padding_mask=mask == 0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        q = self.fc(x)
        return functional.scaled_dot_product_attention(q, q, q, attn_mask=keep)


class AttentionByHand(Attention):
    """Rows that hide everything take the mean of all, as with the lowest finite number in place of minus infinity."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        q = self.fc(x)
        scores = (q @ q.transpose(-1, -2) / 2).masked_fill(~keep, torch.finfo(torch.float32).min)
        return scores.softmax(-1) @ q


class AttentionOff(AttentionByHand):
    """The same, and wrong elsewhere as well."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return super().forward(x, keep) * 1.02


class _Weighted(nn.Module):
    """A network has weights to load."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class Cast(_Weighted):
    """Large values run over int8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 3).to(torch.int8).to(torch.float32) + x


class CastSaturating(_Weighted):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 3).clamp(-128, 127).to(torch.int8).to(torch.float32) + x


class Nearest(_Weighted):
    """Of equal values it takes the first; another runtime may take the last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        index = x.round().argmax(-1, keepdim=True)
        return x.gather(-1, index)


class NearestOfLast(_Weighted):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        index = x.shape[-1] - 1 - x.round().flip(-1).argmax(-1, keepdim=True)
        return x.gather(-1, index)


class Wraps(_Weighted):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + 100


class WrapsNot(_Weighted):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return (ids.long() + 100).clamp(max=255).to(torch.uint8)


class Divides(_Weighted):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids // 3


class DividesTowardsZero(_Weighted):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.div(ids, 3, rounding_mode="trunc")


class Largest(_Weighted):
    """The square root of what is negative is NaN, and so is the largest of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt().amax(-1)


class LargestOfNumbers(_Weighted):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt().nan_to_num(-1).amax(-1)
