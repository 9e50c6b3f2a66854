"""What may go into a network of transformers is declared by the names of its forward's parameters and the sizes its config states."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

from pipeline.rebuild.declarations import Ranges, declarations


def made(forward, main, **config):
    return SimpleNamespace(forward=forward, main_input_name=main, config=SimpleNamespace(**config))


def first(model, *ranges):
    return next(declarations(model, *ranges))


def test_a_text_has_its_whole_vocabulary_a_mask_and_kinds_of_text_up_to_the_longest_stated():
    def forward(input_ids=None, attention_mask=None, token_type_ids=None, labels=None): ...

    model = made(forward, "input_ids", vocab_size=99, max_position_embeddings=40, type_vocab_size=2)
    inputs, dimensions = first(model)
    assert inputs["input_ids"] == {"dtype": "int64", "low": 0, "high": 99, "shape": ["batch", "length"]}
    assert inputs["attention_mask"]["values"] == "mask"
    assert inputs["token_type_ids"]["high"] == 2
    assert dimensions["length"] == {"min": 1, "max": 40}


def test_where_one_kind_of_text_is_all_there_is_none_is_declared():
    def forward(input_ids=None, attention_mask=None, token_type_ids=None): ...

    inputs, _ = first(made(forward, "input_ids", vocab_size=99, type_vocab_size=1))
    assert list(inputs) == ["input_ids", "attention_mask"]


def test_two_positions_that_a_network_keeps_for_itself_are_tried_next():
    def forward(input_ids=None): ...

    tried = [each[1]["length"] for each in islice(declarations(made(forward, "input_ids", vocab_size=9, max_position_embeddings=40)), 2)]  # fmt: skip
    assert tried == [{"min": 1, "max": 40}, {"min": 1, "max": 38}]


def test_an_image_has_the_size_that_is_stated_unless_any_is_asked_for():
    def forward(pixel_values=None): ...

    model = made(forward, "pixel_values", image_size=64, num_channels=3)
    assert first(model)[0]["pixel_values"]["shape"] == ["batch", 3, 64, 64]
    any_size = Ranges(batch=4, longest=24, side=96, samples=4000, any_image=True)
    assert first(model, any_size)[0]["pixel_values"]["shape"] == ["batch", 3, "height", "width"]
    unstated = made(forward, "pixel_values", num_channels=1)
    assert first(unstated)[0]["pixel_values"]["shape"] == ["batch", 1, "height", "width"]


def test_what_generates_text_is_given_the_beginning_of_it():
    def forward(input_features=None, attention_mask=None, decoder_input_ids=None, use_cache=None): ...

    model = made(forward, "input_features", vocab_size=50, num_mel_bins=16, max_source_positions=50)
    inputs, _ = first(model)
    assert list(inputs) == ["input_features", "decoder_input_ids"]
    assert inputs["decoder_input_ids"]["shape"] == ["batch", "target"]
