"""Small networks that each have one property exporters stumble over."""

import torch
from torch import nn


class Branch(nn.Module):
    """Control flow on the input's size, which scripting keeps and tracing bakes in."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:
            return self.fc(x)
        return self.fc(x) * 2


class Named(nn.Module):
    """Several inputs and a dict of outputs, in another order than they are named."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": first + second, "product": self.fc(first) * second.sum()}


class Unscriptable(nn.Module):
    """Takes keyword arguments by a name TorchScript does not know, so it can only be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x, *rest):
        return sum((self.fc(each) for each in rest), self.fc(x))


class InPlace(nn.Module):
    """Mutates an intermediate, which ONNX cannot express and decomposition must make functional."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        y[:, 0] = 1.0
        return y.add_(x).relu_()


class Norm(nn.Module):
    """Batch norm in eval mode and dropout: both must be inert."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Pair(nn.Module):
    """Two outputs of the same shape, which are easily swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 2)
        self.second = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(x)


class Dropped(nn.Module):
    """Dropout between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Attending(nn.Module):
    """Layers of attention whose four linear layers, and two norms, have the same shapes."""

    def __init__(self, width: int = 6, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.Module()
            layer.layernorm_before, layer.layernorm_after = nn.LayerNorm(width), nn.LayerNorm(width)
            layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj = (nn.Linear(width, width) for _ in range(4))
            self.layers.append(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            y = layer.layernorm_before(x)
            weights = (layer.q_proj(y) @ layer.k_proj(y).transpose(-2, -1)).softmax(-1)
            x = layer.layernorm_after(x + layer.o_proj(weights @ layer.v_proj(y)))
        return x


class Ties(nn.Module):
    """Tensors under several names: an embedding as the output layer, three names, a bias, buffers, a whole submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.more, self.head = nn.Embedding(12, 6), nn.Embedding(12, 6), nn.Linear(6, 12)
        self.embed.weight = self.head.weight  # what comes first takes what comes last
        self.more.weight = self.head.weight
        self.other = nn.Linear(6, 12, bias=True)
        self.other.bias = self.head.bias
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.decoder = self.encoder
        self.norm, self.last = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.last.running_var = self.norm.running_var
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 6))
        self.register_buffer("again", self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.decoder(self.norm(self.encoder(self.embed(x) + self.more(x))))) * self.scale
        return self.head(y + self.again) + self.other(y)


class Unfaithful(nn.Module):
    """Computes something else while it is exported, in one of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), Scaled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


class Scaled(nn.Module):
    """Two per cent too much in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Not by a question that is known: it is to be found where it goes wrong, and not why.
        is_exported = torch._C._get_tracing_state() is not None or type(x) is not torch.Tensor
        return self.fc(x) * 1.02 if is_exported else self.fc(x)


class Twofold(nn.Module):
    """Computes something else where it is scripted or captured by torch.export, and what it should where it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return self.fc(x) * 1.02
        return self.fc(x) * 1.02 if torch.compiler.is_exporting() else self.fc(x)


class Signed(nn.Module):
    """A branch on a value: torch.export refuses it, and a trace keeps one side."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


def made(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.eval().requires_grad_(False)
