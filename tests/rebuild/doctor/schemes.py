"""What the parts of a network are called elsewhere: in other libraries, in other versions of them, and by people.

Ours → theirs, each for all below it; `*` is the number of a layer. `told` says whether the words and numbers of the names,
or the shapes, tell each tensor's place to somebody who knows the field: that is judged here, by hand, and not by the doctor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.rebuild.doctor.misfits import BERT, BertEncoder, ResNet, SimpleNet
from tests.rebuild.doctor.zoo import (
    ActorCritic,
    Experts,
    Gpt,
    Mlp,
    Residual,
    Seq2Seq,
    Siamese,
    Tagger,
    UNet,
    Vae,
    ViT,
    WaveNet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn


@dataclass(frozen=True)
class Scheme:
    make: Callable[..., nn.Module]
    name: str
    told: bool
    rename: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that it holds for: where shapes have to tell, for example."""


def _within(outer: tuple[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    """Return the renames of a stack and of what is in each layer of it."""
    ours, theirs = outer
    return {ours: theirs} | {f"{ours}.*.{old}": f"{theirs}.*.{new}" for old, new in inner.items()}


_QKV = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
_VIT_4 = _within(
    ("blocks", "vit.encoder.layer"),
    {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.q_proj": "attention.attention.query",
        "attn.k_proj": "attention.attention.key", "attn.v_proj": "attention.attention.value",
        "attn.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    },
) | {
    "patch_embed": "vit.embeddings.patch_embeddings.projection", "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings", "norm": "vit.layernorm", "head": "classifier",
}  # fmt: skip
_LLAMA = _within(
    ("h", "model.layers"),
    {
        "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
        "value": "self_attn.v_proj", "proj": "self_attn.o_proj", "up": "mlp.up_proj", "gate": "mlp.gate_proj",
        "down": "mlp.down_proj",
    },
) | {"wte": "model.embed_tokens", "wpe": "model.embed_positions", "ln_f": "model.norm"}  # fmt: skip
_LLAMA_FIRST = _within(
    ("h", "layers"),
    {
        "ln_1": "attention_norm", "ln_2": "ffn_norm", "query": "attention.wq", "key": "attention.wk", "value": "attention.wv",
        "proj": "attention.wo", "gate": "feed_forward.w1", "down": "feed_forward.w2", "up": "feed_forward.w3",
    },
) | {"wte": "tok_embeddings", "wpe": "pos_embeddings", "ln_f": "norm", "lm_head": "output"}  # fmt: skip
_FAIRSEQ = _within(
    ("encoder.layer", "decoder.sentence_encoder.layers"),
    {
        "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "self_attn_layer_norm", "intermediate.dense": "fc1", "output.dense": "fc2",
        "output.LayerNorm": "final_layer_norm",
    },
) | {
    "embeddings.word_embeddings": "decoder.sentence_encoder.embed_tokens",
    "embeddings.position_embeddings": "decoder.sentence_encoder.embed_positions",
}  # fmt: skip
_DISTIL = _within(
    ("encoder.layer", "distilbert.transformer.layer"),
    {
        "attention.self.query": "attention.q_lin", "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin", "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm", "intermediate.dense": "ffn.lin1", "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
)  # fmt: skip
_TENSORFLOW = {
    f"encoder.layer.*.{module}.LayerNorm.{ours}": f"encoder.layer.*.{module}.LayerNorm.{theirs}"
    for module in ("attention.output", "output")
    for ours, theirs in (("weight", "gamma"), ("bias", "beta"))
} | {
    "embeddings.LayerNorm.weight": "embeddings.LayerNorm.gamma",
    "embeddings.LayerNorm.bias": "embeddings.LayerNorm.beta",
}


def _residual(block: Mapping[str, str], first: tuple[str, str], second: tuple[str, str]) -> dict[str, str]:
    return _within(first, block) | _within(second, block)


SCHEMES = (
    Scheme(ViT, "transformers 4", True, _VIT_4),
    Scheme(ViT, "CLIP", True, _within(("blocks", "visual.transformer.resblocks"), {
        "norm1": "ln_1", "norm2": "ln_2", "attn.q_proj": "attn.q", "attn.k_proj": "attn.k", "attn.v_proj": "attn.v",
        "attn.o_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }) | {"norm": "visual.ln_post", "head": "visual.proj"}, {"ratio": 4}),
    Scheme(ViT, "Flax", True, _within(("blocks", "Transformer.encoderblock"), {
        "norm1": "LayerNorm_0", "norm2": "LayerNorm_2", "attn.q_proj": "MultiHeadAttention_1.query",
        "attn.k_proj": "MultiHeadAttention_1.key", "attn.v_proj": "MultiHeadAttention_1.value",
        "attn.o_proj": "MultiHeadAttention_1.out", "mlp.fc1": "MlpBlock_3.Dense_0", "mlp.fc2": "MlpBlock_3.Dense_1",
    })),
    Scheme(ViT, "letters", False, {f"blocks.*.attn.{x}_proj": f"blocks.*.attn.{y}" for x, y in zip("qkvo", "bdca", strict=True)}),
    Scheme(ViT, "Whisper", False, _within(("blocks", "encoder.blocks"), {
        "norm1": "attn_ln", "norm2": "mlp_ln", "attn.q_proj": "attn.query", "attn.k_proj": "attn.key",
        "attn.v_proj": "attn.value", "attn.o_proj": "attn.out",
    })),
    Scheme(ViT, "norms after their use", False, {"blocks.*.norm1": "blocks.*.norm_mlp", "blocks.*.norm2": "blocks.*.norm_attn"}),
    Scheme(Gpt, "Llama in transformers", True, _LLAMA),
    Scheme(Gpt, "Llama as published", False, _LLAMA_FIRST),
    Scheme(Gpt, "GPT-NeoX", True, _within(("h", "gpt_neox.layers"), {
        "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "query": "attention.query", "key": "attention.key",
        "value": "attention.value", "proj": "attention.dense", "up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj",
    })),
    Scheme(Gpt, "T5", False, _within(("h", "decoder.block"), {
        "query": "layer.0.SelfAttention.q", "key": "layer.0.SelfAttention.k", "value": "layer.0.SelfAttention.v",
        "proj": "layer.0.SelfAttention.o", "gate": "layer.1.DenseReluDense.wi_0", "up": "layer.1.DenseReluDense.wi_1",
        "down": "layer.1.DenseReluDense.wo", "ln_1": "layer.0.layer_norm", "ln_2": "layer.1.layer_norm",
    })),
    Scheme(BertEncoder, "fairseq", True, _FAIRSEQ, BERT),
    Scheme(BertEncoder, "DistilBERT", True, _DISTIL, BERT),
    Scheme(BertEncoder, "TensorFlow's norms", True, _TENSORFLOW, BERT),
    Scheme(BertEncoder, "ALBERT", True, _within(("encoder.layer", "encoder.albert_layers"), {
        "attention.self.query": "attention.query", "attention.self.key": "attention.key", "attention.self.value": "attention.value",
        "attention.output.dense": "attention.dense", "attention.output.LayerNorm": "attention.LayerNorm",
        "intermediate.dense": "ffn", "output.dense": "ffn_output", "output.LayerNorm": "full_layer_layer_norm",
    }), BERT),
    Scheme(BertEncoder, "Megatron", False, _within(("encoder.layer", "transformer.layers"), {
        "attention.output.LayerNorm": "input_layernorm", "output.LayerNorm": "post_attention_layernorm",
    }), BERT),
    Scheme(BertEncoder, "torch.nn", False, _within(("encoder.layer", "layers"), {
        "attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2", "intermediate.dense": "linear1", "output.dense": "linear2",
    }), BERT),
    Scheme(BertEncoder, "letters", False, {
        f"encoder.layer.*.attention.self.{word}": f"encoder.layer.*.attention.self.{letter}"
        for word, letter in (("query", "a"), ("key", "c"), ("value", "b"))
    }, BERT),
    Scheme(Residual, "Detectron", True, _residual(
        {"bn1": "conv1.norm", "bn2": "conv2.norm"}, ("layer1", "backbone.res2"), ("layer2", "backbone.res3")
    ) | {"conv1": "backbone.stem.conv1", "bn1": "backbone.stem.conv1.norm", "fc": "linear"}),
    Scheme(Residual, "in Sequentials", True, _residual(
        {"conv1": "main.0", "bn1": "main.1", "conv2": "main.3", "bn2": "main.4"}, ("layer1", "body.0"), ("layer2", "body.1")
    )),
    Scheme(Residual, "timm", True, _residual(
        {"bn1": "norm1", "bn2": "norm2", "shortcut": "downsample"}, ("layer1", "stages.0"), ("layer2", "stages.1")
    ) | {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "head.fc"}),
    Scheme(Residual, "letters", False, _residual({"bn1": "y", "bn2": "x"}, ("layer1", "layer1"), ("layer2", "layer2"))),
    Scheme(Residual, "transformers", True, _residual(
        {"conv1": "layer.0.convolution", "bn1": "layer.0.normalization", "conv2": "layer.1.convolution", "bn2": "layer.1.normalization",
         "shortcut": "shortcut.convolution"}, ("layer1", "encoder.stages.0.layers"), ("layer2", "encoder.stages.1.layers")
    ) | {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization", "fc": "classifier.1"}),
    Scheme(Residual, "Flax", True, _residual(
        {"conv1": "Conv_0", "bn1": "BatchNorm_0", "conv2": "Conv_1", "bn2": "BatchNorm_1", "shortcut": "conv_proj"},
        ("layer1", "stage1"), ("layer2", "stage2")
    ) | {"conv1": "conv_init", "bn1": "bn_init", "fc": "Dense_0"}),
    Scheme(UNet, "encoder and decoder", True, {
        f"{ours}.{inner}": f"{theirs}.{new}"
        for ours, theirs in (("down1", "encoder.0"), ("down2", "encoder.1"), ("middle", "bottleneck"), ("up2", "decoder.0"), ("up1", "decoder.1"))
        for inner, new in (("conv1", "block.0"), ("norm1", "block.1"), ("conv2", "block.3"), ("norm2", "block.4"))
    }),
    Scheme(UNet, "BatchNorm", True, {
        f"{ours}.norm{index}": f"{ours}.bn_{index}" for ours in ("down1", "down2", "middle", "up1", "up2") for index in (1, 2)
    }),
    Scheme(Tagger, "another library", True, {
        "embedding": "word_embeddings", "rnn": "encoder.gru", "norm": "layer_norm", "tag": "classifier",
    }),
    Scheme(Siamese, "sides", True, {
        f"{side}.{ours}": f"{side}_encoder.{theirs}"
        for side in ("left", "right") for ours, theirs in (("lin1", "dense_1"), ("lin2", "dense_2"), ("norm", "LayerNorm"))
    }),
    Scheme(Siamese, "numbers", False, {"left": "towers.1", "right": "towers.0"}),
    Scheme(Siamese, "query and document", False, {"left": "query_tower", "right": "document_tower"}),
    Scheme(Experts, "blocks", True, _within(("layers", "model.blocks"), {"router": "ffn.gate"}) | {
        f"layers.*.experts.*.{word}_proj": f"model.blocks.*.ffn.experts.*.w_{word}" for word in ("gate", "up", "down")
    }),
    Scheme(Experts, "Mixtral", False, {
        f"layers.*.experts.*.{word}_proj": f"layers.*.experts.*.{theirs}"
        for word, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    }),
    Scheme(WaveNet, "convolutions", True, _within(("layers", "stack.blocks"), {
        "filter": "conv_filter", "gate": "conv_gate", "residual": "res_conv", "skip": "skip_conv",
    })),
    Scheme(WaveNet, "activations", False, {"layers.*.filter": "layers.*.tanh_conv", "layers.*.gate": "layers.*.sigmoid_conv"}),
    Scheme(Seq2Seq, "short", True, {"encoder": "enc", "decoder": "dec", "query": "attention.W_q", "key": "attention.W_k", "out": "generator"}),
    Scheme(Seq2Seq, "letters", False, {"query": "w2", "key": "w1"}),
    Scheme(ActorCritic, "policy and value", True, {"actor": "policy_net", "critic": "value_net"}),
    Scheme(Vae, "encoder and decoder", True, {
        "enc": "encoder.fc", "mu": "encoder.fc_mean", "logvar": "encoder.fc_log_var", "dec1": "decoder.fc1", "dec2": "decoder.fc2",
    }),
    Scheme(Vae, "numbers", False, {"mu": "fc22", "logvar": "fc21"}),
    Scheme(Mlp, "a Sequential", True, {f"layers.{index}": f"net.{2 * index}" for index in range(5)} | {"head": "classifier"}),
    Scheme(Mlp, "letters", False, {"layers.0": "b", "layers.1": "a"}, {"inputs": 24, "width": 24}),
    Scheme(SimpleNet, "a Sequential", True, {"fc1": "net.0", "fc2": "net.2"}),
    Scheme(ResNet, "stages", True, {f"layer{index}": f"stages.{index - 1}" for index in (1, 2, 3, 4)} | {"fc": "head", "bn1": "norm1"}),
)  # fmt: skip
