"""Small configs of transformers' model types: the default config of each with its widths, depths and vocabularies cut down.

What a field is called says what it is, as far as a number of models agree on it; where a type wants something else, the recipes are tried one
after the other until one builds.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

Recipe = Mapping[str, int]

WIDTH, HEADS, LAYERS, VOCABULARY, IMAGE, PATCH = 32, 4, 2, 128, 64, 8
MOST_PARAMETERS = 4_000_000
"""A network larger than that is not small: it is cut down further or left out."""

_WIDTHS = re.compile(
    r"^(hidden_size|d_model|n_embd|dim|embed_dim|hidden_dim|embedding_size|emb_dim|model_dim|attention_hidden_size|d_embed|embed_size|"
    r"encoder_hidden_size|decoder_hidden_size|hidden_channels|out_hidden_size|output_hidden_size|conv_dim|width|"
    r"text_hidden_size|vision_hidden_size|cross_attention_hidden_size|word_embed_proj_dim|projection_dim|audio_hidden_size|"
    r"output_dim|output_proj_dim|mm_hidden_size|embed_proj_dim|qk_channels|v_channels|d_latents|lru_width|"
    r"query_dim|feature_size|mask_feature_size|fpn_feature_size|num_channels_out|fusion_hidden_size|neck_hidden_size|emb_size|"
    r"entity_emb_size|input_hidden_size|attention_dim|hidden_feat_size|dim_model|q_lora_rank|speaker_embedding_dim|encoder_width|head_hidden_size)$"
)
_WIDE = re.compile(
    r"^(intermediate_size|ffn_dim|d_ff|n_inner|inner_dim|encoder_ffn_dim|decoder_ffn_dim|mlp_dim|ffn_hidden_size|feed_forward_hidden_size|"
    r"moe_intermediate_size|shared_expert_intermediate_size|dim_feedforward|d_inner|ff_dim|encoder_intermediate_size|"
    r"decoder_intermediate_size|feedforward_size|dim_ff|intermediate_dim|ffn_intermediate_size|expert_ffn_hidden_size|intermediate_size_mlp|"
    r"hidden_mlp_size|n_shared_inner|moe_shared_expert_intermediate_size|block_ff_dim|pooler_hidden_size|mlp_hidden_size|encoder_feedforward_dim|decoder_feedforward_dim|prediction_intermediate_size)$"
)
_HEADS = re.compile(
    r"^(num_attention_heads|n_head|n_heads|num_heads|encoder_attention_heads|decoder_attention_heads|encoder_num_heads|num_cross_attention_heads|"
    r"decoder_num_heads|num_self_attention_heads|decoder_num_attention_heads|encoder_num_attention_heads|mamba_n_heads_of|attention_heads|num_query_heads|n_attention_heads)$"
)
_KV_HEADS = re.compile(
    r"^(num_key_value_heads|n_head_kv|num_kv_heads|multi_query_group_num|n_kv_heads|encoder_num_key_value_heads|decoder_num_key_value_heads|kv_n_heads)$"
)
_LAYERS = re.compile(
    r"^(num_hidden_layers|n_layer|n_layers|num_layers|encoder_layers|decoder_layers|num_encoder_layers|num_decoder_layers|depth|"
    r"encoder_num_layers|decoder_num_layers|num_blocks|n_block|num_hidden_groups_of|encoder_num_hidden_layers|decoder_num_hidden_layers|"
    r"num_self_attends_per_block|vision_layers|text_layers|l_layers|x_layers|r_layers|num_conv_pos_embedding_layers|num_cross_layers|"
    r"num_transformer_layers|speech_encoder_layers|num_adapter_layers_of|layers|n_encoder_layer|n_decoder_layer|temporal_num_layers|"
    r"variance_predictor_layers|num_fusion_layers|t2u_encoder_layers|t2u_decoder_layers|mit_num_hidden_layers|prompt_encoder_layers|decoder_depth|encoder_depth|num_block_layers|predictor_layers|pred_num_hidden_layers)$"
)
_VOCABULARY = re.compile(
    r"^(vocab_size|n_vocab|num_embeddings_of|text_vocab_size|encoder_vocab_size|decoder_vocab_size|char_vocab_size|entity_vocab_size|ngram_vocab_size|unit_vocab_size|t2u_vocab_size|vocab_size_or_config_json_file|bpe_vocab_size|wordpiece_vocab_size|src_vocab_size|tgt_vocab_size|audio_vocab_size|codec_vocab_size|vocab_size_per_layer_input|tag_vocab_size|max_xpath_tag_unit_embeddings_of)$"
)
_EXPERTS = re.compile(
    r"^(num_experts|n_routed_experts|num_local_experts|moe_num_experts|n_experts|encoder_num_experts|num_routed_experts)$"
)
_SMALL: Mapping[str, int] = {
    "num_experts_per_tok": 2, "moe_top_k": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "head_dim": 8, "d_kv": 8, "kv_channels": 8, "attention_head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_source_positions": 128, "max_target_positions": 128, "seq_length": 128,
    "image_size": IMAGE, "patch_size": PATCH, "num_labels": 3, "rotary_dim": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8, "qk_head_dim": 8,
    "global_head_dim": 8, "num_global_key_value_heads": 2, "state_size": 4, "ssm_state_size": 4, "mamba_d_state": 4, "mamba_n_heads": 4, "mamba_num_heads": 4, "mamba_d_head": 16, "mamba_head_dim": 16, "time_step_rank": 2, "n_groups": 1, "mamba_n_groups": 1,
    "num_queries": 6, "num_query_tokens": 4, "num_latents": 6, "max_2d_position_embeddings": 128, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "num_hash_functions": 2, "num_hash_buckets": 128, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0,
    "bottleneck_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "index_head_dim": 8, "index_n_heads": 2, "index_topk": 4, "o_lora_rank": 8, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "temporal_patch_size": 2, "num_frames": 4, "lora_rank": 4,
    "window_size": 2, "num_feature_levels": 3, "num_denoising": 0, "num_groups_norm": 4, "sliding_window": 8, "attention_window": 4, "local_radius": 3, "global_block_size": 4, "rope_head_dim": 4, "attn_head_dim": 8,
    "num_mel_bins": 16, "num_mel_filters": 16, "max_length": 64, "spectrogram_length": 128, "downsample_dim": 32, "block_size": 4, "num_random_blocks": 1, "chunk_size": 8,
    "mlp_expansion_dim": 16, "codebook_dim": 16, "num_filters": 4, "num_quantizers": 4, "codebook_size": 64, "n_codes": VOCABULARY, "decoder_hidden_dim": 32, "num_memory_blocks": 2, "adapter_rank": 4,
}  # fmt: skip
_WANTED: Mapping[str, Mapping[str, Any]] = {
    "autoformer": {"prediction_length": 8, "context_length": 16}, "informer": {"prediction_length": 8, "context_length": 16},
    "time_series_transformer": {"prediction_length": 8, "context_length": 16},
**{each: {"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 16, "window_size": 4} for each in ("swin", "donut-swin", "maskformer-swin")},
    "esm": {"vocab_size": 40, "pad_token_id": 1}, "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8}, "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2}, "dots1": {"n_routed_experts": 4}, "deepseek_v2": {"num_experts_per_tok": 2}, "lfm2_moe": {"num_dense_layers": 1},
}  # fmt: skip
"""What a type's config wants to be told."""
_TOKEN = re.compile(r"^(.*_token_id|.*_token_index|.*_token|.*_id|.*_idx)$")


def configs(model_type: str) -> Iterator[Any]:
    """Yield configs of a type, the smallest first."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, wanted = CONFIG_MAPPING[model_type], dict(_WANTED.get(model_type, {}))
    default, seen = kind(**wanted), set()
    for rules in (_shrunk, _with_own_heads, _without_lists, _gently):
        for kept in (_changed, _consistent):
            with suppress(Exception):  # another recipe may do
                config = _finished(kind(**{**wanted, **kept(default, rules)}))
                if (text := config.to_json_string(use_diff=False)) not in seen:
                    seen.add(text)
                    yield config


def _finished(config: Any) -> Any:
    """Set what is no size: no cache, the plain attention, no dropout that matters in eval anyway."""
    for each in (config, *_below(config)):
        if hasattr(each, "use_cache"):
            each.use_cache = False
    return config


def _below(config: Any) -> Iterator[Any]:
    for value in vars(config).values():
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            yield value
            yield from _below(value)


def _changed(default: Any, rules: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return the fields of a config that the rules change, as arguments for its class; those of parts are dictionaries again."""
    found: dict[str, Any] = {}
    for name, value in vars(default).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            inner = _changed(value, rules)
            found[name] = {"model_type": value.model_type, **inner} if value.model_type else inner
        elif not name.startswith("_") and (small := rules(name, copy.deepcopy(value))) != value:
            found[name] = small
    return found


def _shrunk(name: str, value: Any) -> Any:
    """Cut a field down by its name."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _number(name, value)
    if isinstance(value, dict) and "mrope_section" in value:
        return {**value, "mrope_section": [1, 1, 2]}  # half of a head
    if isinstance(value, list | tuple) and value and all(type(each) is int for each in value):
        return type(value)(_listed(name, list(value)))
    return value


def _number(name: str, value: int) -> int:
    if _TOKEN.match(name):
        return value if value < VOCABULARY else 3 + sum(map(ord, name)) % (VOCABULARY - 4)
    if name in _SMALL:
        return min(value, _SMALL[name]) if value > 0 else value
    for pattern, small in (
        (_WIDTHS, WIDTH), (_WIDE, 2 * WIDTH), (_HEADS, HEADS), (_LAYERS, LAYERS), (_VOCABULARY, VOCABULARY), (_EXPERTS, 4),
    ):  # fmt: skip
        if pattern.match(name):
            return min(value, small) if value > 0 else value
    if _KV_HEADS.match(name):
        return min(value, 2) if value > 1 else value
    return value


def _listed(name: str, values: list[int]) -> list[int]:
    if "depth" in name or "layers" in name or "num_blocks" in name or "layer_repeats" in name:
        return [1 if each else 0 for each in values]
    if "head" in name:
        return [min(each, 2 ** min(index, 2)) for index, each in enumerate(values)]
    if re.search(r"hidden_sizes|embed_dim|channels|widths|dims|^conv_dim|hidden_size|filters|neck_hidden", name):
        if len(set(values)) == 1:
            return [min(each, WIDTH) for each in values]
        return [min(each, 16 * 2 ** min(index, 2)) for index, each in enumerate(values)]
    return values


def _with_own_heads(name: str, value: Any) -> Any:
    """Let a type's own rule say how wide a head is."""
    return (
        value
        if name in {"head_dim", "qk_head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"}
        else _shrunk(name, value)
    )


def _without_lists(name: str, value: Any) -> Any:
    return value if isinstance(value, list | tuple) else _shrunk(name, value)


def _gently(name: str, value: Any) -> Any:
    """Cut only what costs most and is free in nearly every type: layers, vocabulary, experts."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if any(each.match(name) for each in (_LAYERS, _VOCABULARY, _EXPERTS, _WIDE)) or _TOKEN.match(name):
        return _number(name, value)
    return value


def _consistent(default: Any, rules: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return the changed fields, with lists cut to the number of layers, each kind that they hold in turn."""
    found = _changed(default, rules)
    _cut(found, default)
    return found


def _cut(found: dict[str, Any], default: Any) -> None:
    layers = next((found[name] for name in found if _LAYERS.match(name) and isinstance(found[name], int)), None)
    before = next(
        (getattr(default, name) for name in found if _LAYERS.match(name) and isinstance(found[name], int)), None
    )
    for name, value in list(vars(default).items()):
        if isinstance(found.get(name), dict) and hasattr(value, "model_type"):
            _cut(found[name], value)
        elif isinstance(value, list) and layers is not None and len(value) == before and name not in found:
            kinds = [value[index] for index in sorted({value.index(each) for each in value})]
            found[name] = (kinds * layers)[:layers]


def parameters(config: Any) -> int:
    """Return how many parameters a config's network has, without making any."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return sum(each.numel() for each in AutoModel.from_config(config).parameters())
