"""Small networks of common kinds to draw misfits over, and what their parts are called elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Mlp(nn.Module):
    def __init__(self, inputs: int = 24, width: int = 24, layers: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs if i == 0 else width, width) for i in range(layers))
        self.head = nn.Linear(width, classes)


class Double(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3), nn.BatchNorm2d(outputs)


class UNet(nn.Module):
    def __init__(self, channels: int = 3, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = Double(channels, width), Double(width, width), Double(width, 2 * width)
        self.up2, self.up1 = Double(3 * width, width), Double(2 * width, width)
        self.out = nn.Conv2d(width, classes, 1)


class Tagger(nn.Module):
    def __init__(self, vocabulary: int = 60, width: int = 16, tags: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, num_layers=2, bidirectional=True)
        self.norm, self.tag = nn.LayerNorm(2 * width), nn.Linear(2 * width, tags)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))


class Block(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)


class ViT(nn.Module):
    def __init__(self, width: int = 16, depth: int = 3, ratio: int = 1, classes: int = 6) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4)
        self.cls_token, self.pos_embed = _parameter(1, 1, width), _parameter(1, 17, width)
        self.blocks = nn.ModuleList(Block(width, ratio) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)


class GptBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.gate, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))


class Gpt(nn.Module):
    def __init__(self, vocabulary: int = 50, width: int = 16, layers: int = 2, positions: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList(GptBlock(width) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)


class Basic(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width)
        if inputs != width:
            self.shortcut = nn.Conv2d(inputs, width, 1, bias=False)


class Residual(nn.Module):
    def __init__(self, width: int = 8, blocks: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, bias=False), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*[Basic(width, width) for _ in range(blocks)])
        self.layer2 = nn.Sequential(Basic(width, 2 * width), *[Basic(2 * width, 2 * width) for _ in range(blocks - 1)])
        self.fc = nn.Linear(2 * width, classes)


class Tower(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lin1, self.lin2, self.norm = nn.Linear(inputs, width), nn.Linear(width, width), nn.LayerNorm(width)


class Siamese(nn.Module):
    def __init__(self, inputs: int = 12, width: int = 12) -> None:
        super().__init__()
        self.left, self.right, self.joint = Tower(inputs, width), Tower(inputs, width), nn.Linear(2 * width, 1)


class Expert(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(width, width, bias=False) for _ in range(3))


class Experts(nn.Module):
    def __init__(self, width: int = 12, experts: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "router": nn.Linear(width, experts, bias=False),
                    "experts": nn.ModuleList(Expert(width) for _ in range(experts)),
                }
            )
            for _ in range(layers)
        )


class WaveNet(nn.Module):
    def __init__(self, channels: int = 10, layers: int = 4) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, channels, 1)
        names = ("filter", "gate", "residual", "skip")
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Conv1d(channels, channels, 2 if name in names[:2] else 1) for name in names})
            for _ in range(layers)
        )
        self.end1, self.end2 = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, 1, 1)


class Half(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(vocabulary, width), nn.LSTM(width, width)


class Seq2Seq(nn.Module):
    def __init__(self, vocabulary: int = 40, width: int = 14) -> None:
        super().__init__()
        self.encoder, self.decoder = Half(vocabulary, width), Half(vocabulary, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(2 * width, vocabulary)


class ActorCritic(nn.Module):
    def __init__(self, observations: int = 9, width: int = 9, actions: int = 9) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(observations, width), nn.Tanh(), nn.Linear(width, actions))
        self.critic = nn.Sequential(nn.Linear(observations, width), nn.Tanh(), nn.Linear(width, 1))


class Vae(nn.Module):
    def __init__(self, inputs: int = 20, width: int = 16, latent: int = 16) -> None:
        super().__init__()
        self.enc, self.mu, self.logvar = nn.Linear(inputs, width), nn.Linear(width, latent), nn.Linear(width, latent)
        self.dec1, self.dec2 = nn.Linear(latent, width), nn.Linear(width, inputs)


def _parameter(*shape: int) -> nn.Parameter:
    import torch

    return nn.Parameter(torch.zeros(shape))


ZOO: dict[Callable[..., nn.Module], Mapping[str, tuple[int, ...]]] = {
    Mlp: {"inputs": (24, 10, 7), "width": (24, 32), "layers": (2, 3, 5), "classes": (5, 2, 24)},
    UNet: {"channels": (3, 1), "width": (8, 6), "classes": (2, 9)},
    Tagger: {"vocabulary": (60, 33), "width": (16, 20), "tags": (7, 11)},
    ViT: {"width": (16, 24), "depth": (3, 1, 6), "ratio": (1, 4), "classes": (6, 10)},
    Gpt: {"vocabulary": (50, 71), "width": (16, 24), "layers": (2, 5), "positions": (32, 64)},
    Residual: {"width": (8, 12), "blocks": (2, 3), "classes": (5, 8)},
    Siamese: {"inputs": (12, 30), "width": (12, 18)},
    Experts: {"width": (12, 16), "experts": (4, 8), "layers": (2, 3)},
    WaveNet: {"channels": (10, 16), "layers": (4, 6)},
    Seq2Seq: {"vocabulary": (40, 55), "width": (14, 20)},
    ActorCritic: {"observations": (9, 4), "width": (9, 32), "actions": (9, 3)},
    Vae: {"inputs": (20, 16), "width": (16, 24), "latent": (16, 4)},
}
"""Networks with the values that their arguments may have, the usual ones first."""
