"""Networks of images, sounds and tables, as they take what was prepared for them."""

from typing import Optional

import torch
from torch import nn


class Picture(nn.Module):
    """Asks for a view that an image with its channels last in memory does not have."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * (side - 2) ** 2, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(image).view(image.size(0), -1))


class Deployed(nn.Module):
    """The same with its preprocessing written by hand."""

    def __init__(self, network: Picture, size: int = 8) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.permute(0, 3, 1, 2).contiguous().float()
        x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return self.network((x / 255 - self.mean) / self.scale)


class Both(nn.Module):
    """An image that may be left out, between a table and a switch; what is called is no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(2, 4)

    def encode(
        self,
        table: torch.Tensor,
        image: Optional[torch.Tensor] = None,  # noqa: UP045 - TorchScript reads it
        twice: bool = False,
    ) -> torch.Tensor:
        found = self.fc(table)
        if image is not None:
            found = found + self.conv(image).mean((2, 3))
        return found * 2 if twice else found


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)

    def forward(self, samples):
        return torch.tanh(self.fc(samples.unsqueeze(-1))).mean(1)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, /, rows, *, more=None):
        return self.fc(rows) if more is None else self.fc(rows) + more


class Keywords(Table):
    def forward(self, first, **others):
        return self.fc(first) + self.fc(others["rows"])


class Steps(nn.Sequential):
    """A network that runs all it holds, one after the other."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


class Recursive(Table):
    def forward(self, rows):
        return self.fc(rows) if rows.shape[0] == 1 else torch.cat([self(rows[:1]), self.forward(rows[1:])])


class Hooked(Table):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
