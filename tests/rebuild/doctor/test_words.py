"""What names say: the field's synonyms, what excludes what, and what says nothing."""

from __future__ import annotations

import pytest

from pipeline.rebuild.doctor.words import excluded, has_letters, is_copy, likeness, meanings, numbered


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("attention.attention.query", "attn.q_proj"),
        ("attention.wv", "self_attn.v_proj"),
        ("embeddings.word_embeddings", "tok_emb"),
        ("wpe", "position_embeddings"),
        ("LayerNorm.gamma", "norm.weight"),
        ("LayerNorm.beta", "ln.bias"),
        ("decoder.embed", "dec.embed"),
        ("fc_log_var", "logvar"),
        ("conv1.parametrizations.weight.original0", "conv1.weight_g"),
        ("feed_forward", "mlp"),
        ("classifiers", "classifier"),
        ("upsampler", "upsample"),
    ],
)
def test_names_of_the_same_thing_are_more_alike_than_others(theirs: str, ours: str) -> None:
    assert likeness(meanings(theirs), meanings(ours)) >= 1
    assert likeness(meanings(theirs), meanings("router")) == 0


def test_what_a_tensor_is_weighs_half_of_which_one_it_is() -> None:
    assert likeness(meanings("conv_a"), meanings("convolution_b")) == 0.5
    assert likeness(meanings("gate"), meanings("conv_gate")) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("query", "k_proj"), ("attn.v", "out_proj"), ("norm.weight", "norm.bias"), ("kernel", "weight"), ("weight_ih", "weight_hh"),
        ("layernorm_before", "post_norm"), ("left", "right_tower"), ("up_proj", "gate_proj"), ("src_embed", "target"),
    ],
)  # fmt: skip
def test_opposites_exclude_each_other(first: str, second: str) -> None:
    assert excluded(meanings(first), meanings(second))
    assert not excluded(meanings(first), meanings(first))


def test_letters_are_words_only_beside_each_other() -> None:
    assert has_letters(["w_q", "w_k"])
    assert not has_letters(["p0", "q1"])
    assert "query" in meanings("q1")
    assert "query" not in meanings("q1", letters=False)


def test_numbers_belong_to_the_words_before_them() -> None:
    assert numbered("blocks.3.norm1.weight") == (("block", 3), ("norm", 1))
    assert numbered("layers.0") == numbered("layer_0") == (("layer", 0),)


def test_the_rank_of_a_layer_is_no_number() -> None:
    assert numbered("conv2d_1.weight") == (("conv", 1),)


def test_a_second_set_of_weights_is_recognised() -> None:
    assert is_copy(meanings("ema.fc"))
    assert is_copy(meanings("teacher_backbone"))
    assert not is_copy(meanings("model.fc"))
