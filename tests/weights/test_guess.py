"""Guesses at networks, held against what they are: what is there is named, and nothing that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.resnet import ResNet
from pipeline.weights.guess import likely

if TYPE_CHECKING:
    from collections.abc import Callable

TWO_WAYS = "an LSTM (hidden size 32, 2 layers, both directions)"
HEADS = " (the number of heads is not in the shapes)"


def named(**parts: Any) -> nn.ModuleDict:
    return nn.ModuleDict(parts)


def repeated(count: int, make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(count))


class Transposed(nn.Module):
    """A linear layer as GPT-2 has it: inputs are rows."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


def crnn() -> nn.Module:
    cnn = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3))
    return named(cnn=cnn, rnn=nn.LSTM(32, 32, 2, bidirectional=True), fc=nn.Linear(64, 50))


def conv_with_names_of_transformers(width: int = 16) -> nn.Module:
    block = named(
        dw=nn.Conv1d(width, width, 3, groups=width),
        norm1=nn.LayerNorm(width),
        norm2=nn.LayerNorm(width),
        ffn=named(up=nn.Linear(width, 48), down=nn.Linear(48, width)),
    )
    return named(in_proj=nn.Linear(7, width), block=block)


def vit(width: int = 48) -> nn.Module:
    def block() -> nn.Module:
        attention = named(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        return named(attn=attention, mlp=named(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)))

    return named(
        patch_embed=named(proj=nn.Conv2d(3, width, 16, 16)), blocks=repeated(12, block), head=nn.Linear(width, 1000)
    )


def gpt2(width: int = 32) -> nn.Module:
    def block() -> nn.Module:
        attention = named(c_attn=Transposed(3 * width, width), c_proj=Transposed(width, width))
        return named(attn=attention, mlp=named(c_fc=Transposed(4 * width, width), c_proj=Transposed(width, 4 * width)))

    return named(wte=nn.Embedding(500, width), wpe=nn.Embedding(64, width), h=repeated(11, block))


def llama(width: int = 64) -> nn.Module:
    def block() -> nn.Module:
        sizes = {"q_proj": width, "k_proj": 16, "v_proj": 16, "o_proj": width}
        return named(
            self_attn=named(**{name: nn.Linear(width, size, bias=False) for name, size in sizes.items()}),
            mlp=named(up_proj=nn.Linear(width, 172, bias=False), down_proj=nn.Linear(172, width, bias=False)),
        )

    return named(
        embed_tokens=nn.Embedding(320, width),
        layers=repeated(4, block),
        lm_head=nn.Linear(width, 320, bias=False),
    )


def t5(width: int = 32) -> nn.Module:
    def attention() -> nn.Module:
        return named(**{name: nn.Linear(width, 40, bias=False) for name in "qkv"}, o=nn.Linear(40, width, bias=False))

    def forward() -> nn.Module:
        return named(wi=nn.Linear(width, 64, bias=False), wo=nn.Linear(64, width, bias=False))

    return named(
        shared=nn.Embedding(100, width),
        encoder=named(block=repeated(3, lambda: named(SelfAttention=attention(), ff=forward()))),
        decoder=named(
            block=repeated(2, lambda: named(SelfAttention=attention(), EncDecAttention=attention(), ff=forward()))
        ),
    )


def unet() -> nn.Module:
    def double(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3))

    return named(
        inc=double(3, 16),
        down=double(16, 32),
        up=nn.ConvTranspose2d(32, 16, 2, 2),
        conv=double(32, 16),
        outc=nn.Conv2d(16, 2, 1),
    )


def mamba(width: int = 16) -> nn.Module:
    def block() -> nn.Module:
        inner = 2 * width
        return named(
            in_proj=nn.Linear(width, 2 * inner, bias=False),
            conv1d=nn.Conv1d(inner, inner, 4, groups=inner),
            out_proj=nn.Linear(inner, width, bias=False),
        )

    return named(embedding=nn.Embedding(90, width), layers=repeated(3, block))


def attention_between_convolutions() -> nn.Module:
    attention = named(query=nn.Conv2d(16, 2, 1), key=nn.Conv2d(16, 2, 1), value=nn.Conv2d(16, 16, 1))
    return named(
        body=nn.Sequential(nn.Conv2d(3, 16, 3), *(nn.Conv2d(16, 16, 3) for _ in range(7))),
        attention=attention,
        out=nn.Conv2d(16, 1, 3),
    )


def mobile() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.Conv2d(16, 16, 1, bias=False))

    return named(stem=nn.Conv2d(3, 16, 3), blocks=repeated(4, block), classifier=nn.Linear(16, 100))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str | None, str | None]] = {
    "CRNN": (
        crnn,
        f"2 2-D convolutions, 1 input channel, then {TWO_WAYS}, then a linear layer (50 outputs)",
        f"2 2-D convolutions, 1 input channel, a linear layer (50 outputs) and {TWO_WAYS}",
    ),
    "names of transformers": (
        conv_with_names_of_transformers,
        "a network of 3 linear layers and 1 1-D convolution (depthwise), 16 outputs, width 16",
        "a network of 3 linear layers and 1 1-D convolution (depthwise), width 16",
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(1, 16, 5), nn.BatchNorm1d(16), nn.Conv1d(16, 32, 5), nn.Conv1d(32, 10, 1)),
        "a convolutional network: 3 1-D convolutions, 1 input channel, 10 output channels",
        "a convolutional network: 3 1-D convolutions, 1 input channel",
    ),
    "gray": (
        lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(144, 10)),
        *["a convolutional network: 2 2-D convolutions, 1 input channel, 10 outputs"] * 2,
    ),
    "MLP": (
        lambda: nn.Sequential(*(nn.Linear(8, 8) for _ in range(11)), nn.Linear(8, 3)),
        *["a stack of 12 linear layers: 8 → 8 → 8 → 8 → 8 → 8 → 8 → 8 → 8 → 8 → … → 3"] * 2,
    ),
    "ResNet": (
        lambda: ResNet(18, 10),
        *["a convolutional network: 20 2-D convolutions with shortcuts, 3 input channels, 10 outputs"] * 2,
    ),
    "MobileNet": (
        mobile,
        *["a convolutional network: 9 2-D convolutions (4 depthwise), 3 input channels, 100 outputs"] * 2,
    ),
    "U-Net": (
        unet,
        "a convolutional network: 8 2-D convolutions (1 transposed), 3 input channels, 2 output channels",
        "a convolutional network: 8 2-D convolutions (1 transposed), 3 input channels",
    ),
    "BERT": (
        lambda: BertEncoder(99, 48, 3, 4, 80, 40, 3),
        *[f"a transformer: width 48, 3 layers, vocabulary 99{HEADS}"] * 2,
    ),
    "ViT": (vit, *[f"a vision transformer: width 48, 12 layers, patches of 16 × 16, 1000 outputs{HEADS}"] * 2),
    "GPT-2": (gpt2, *[f"a transformer: width 32, 11 layers, vocabulary 500{HEADS}"] * 2),
    "Llama": (llama, *[f"a transformer: width 64, 4 layers, vocabulary 320{HEADS}"] * 2),
    "T5": (t5, *[f"a transformer: width 32, 3 encoder and 2 decoder layers, vocabulary 100{HEADS}"] * 2),
    "torch's Transformer": (
        lambda: nn.Transformer(32, 4, 3, 2, 64, batch_first=True),
        *[f"a transformer: width 32, 3 encoder and 2 decoder layers{HEADS}"] * 2,
    ),
    "torch's decoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4), 2),
        *[f"a transformer: width 32, 2 layers with cross-attention{HEADS}"] * 2,
    ),
    "attention between convolutions": (
        attention_between_convolutions,
        "a convolutional network: 9 2-D convolutions, 3 input channels, an attention layer (width 16), 1 output channel",
        "a convolutional network: 9 2-D convolutions, 3 input channels, an attention layer (width 16)",
    ),
    "attention alone": (lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=8), *["an attention layer: width 16"] * 2),
    "GRU": (
        lambda: named(gru=nn.GRU(40, 64, 3), head=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
        "a GRU (hidden size 64, 3 layers), then 2 linear layers (10 outputs)",
        "a GRU (hidden size 64, 3 layers) and 2 linear layers (10 outputs)",
    ),
    "embedding and LSTM": (
        lambda: named(embedding=nn.Embedding(1000, 64), lstm=nn.LSTM(64, 128), fc=nn.Linear(128, 5)),
        "an embedding of 1000 × 64, then an LSTM (hidden size 128, 1 layer), then a linear layer (5 outputs)",
        "an embedding of 1000 × 64, a linear layer (5 outputs) and an LSTM (hidden size 128, 1 layer)",
    ),
    "projected LSTM": (
        lambda: named(rnn=nn.LSTM(32, 48, proj_size=12), attend=nn.MultiheadAttention(12, 3), out=nn.Linear(12, 4)),
        "an LSTM (hidden size 48, 1 layer), then an attention layer (width 12), then a linear layer (4 outputs)",
        "an attention layer (width 12), a linear layer (4 outputs) and an LSTM (hidden size 48, 1 layer)",
    ),
    "two GRUs": (
        lambda: named(
            src_embed=nn.Embedding(200, 32),
            tgt_embed=nn.Embedding(300, 32),
            encoder=nn.GRU(32, 64),
            decoder=nn.GRU(32, 64),
            out=nn.Linear(64, 300),
        ),
        "embeddings of 200 × 32 and 300 × 32, then 2 GRUs (each hidden size 64, 1 layer), then a linear layer (300 outputs)",
        "2 GRUs (each hidden size 64, 1 layer), a linear layer (300 outputs) and embeddings of 200 × 32 and 300 × 32",
    ),
    "Mamba": (
        mamba,
        "an embedding of 90 × 16, 6 linear layers and 3 1-D convolutions (depthwise)",
        "an embedding of 90 × 16, 3 1-D convolutions (depthwise) and 6 linear layers",
    ),
    "columns of a table": (
        lambda: named(
            embeds=nn.ModuleList(nn.Embedding(n, 4) for n in (10, 20, 30, 40)),
            hidden=nn.Linear(22, 32),
            out=nn.Linear(32, 1),
        ),
        "4 embeddings, then 2 linear layers (1 output)",
        "4 embeddings and 2 linear layers (1 output)",
    ),
    "names of attention": (
        lambda: named(key=nn.Linear(8, 16), value=nn.Linear(16, 4), in_proj=nn.Linear(4, 12)),
        "a stack of 3 linear layers: 8 → 16 → 4 → 12",
        "3 linear layers",
    ),
    "autoencoder": (
        lambda: named(
            encode=nn.Linear(784, 400), mean=nn.Linear(400, 20), spread=nn.Linear(400, 20),
            decode=nn.Linear(20, 400), out=nn.Linear(400, 784),
        ),
        "5 linear layers",
        "5 linear layers",
    ),
    "mixture of experts": (
        lambda: named(gate=nn.Linear(16, 4), experts=nn.ModuleList(nn.Linear(16, 16) for _ in range(4))),
        "5 linear layers",
        "5 linear layers",
    ),
    "one layer": (lambda: named(fc=nn.Linear(5, 2)), "a linear layer: 5 → 2", "a linear layer: 5 → 2"),
}  # fmt: skip


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_there_is_named_in_the_order_of_the_file(name: str) -> None:
    make, says, _ = NETWORKS[name]
    assert likely(shapes(make())) == says


@pytest.mark.parametrize("name", NETWORKS)
def test_no_order_is_claimed_of_a_file_that_is_sorted_by_name(name: str) -> None:
    """As safetensors has it."""
    make, _, says = NETWORKS[name]
    assert likely(dict(sorted(shapes(make()).items()))) == says


def test_an_adapter_is_no_stack_of_layers() -> None:
    pairs = {
        f"base.layers.{layer}.q_proj.lora_{side}.weight": (4, 32) if side == "A" else (32, 4)
        for layer in range(3)
        for side in "AB"
    }
    assert likely(pairs) == (
        "a LoRA adapter: 3 pairs of matrices, rank 4, to be added to the weights of the network it was made for"
    )
    assert "LoRA" not in (likely({"lora_A.weight": (4, 32), "fc.weight": (2, 32), "fc2.weight": (3, 2)}) or "")


def test_nothing_at_all_is_no_network() -> None:
    assert likely({}) is None
    assert likely({"scale": (), "norm.weight": (3,), "norm.bias": (3,)}) is None
