"""A decoder's step takes and returns what it keeps between calls; what keeps nothing, or something else, is refused with its reason."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.errors import ArchitectureError
from pipeline.rebuild import decoders


def layer(name="DynamicLayer"):
    made = type(name, (), {})()
    made.keys, made.values = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 6)
    return made


class Decoder(nn.Module):
    def __init__(self, *layers, **config):
        super().__init__()
        text = SimpleNamespace(vocab_size=50)
        stated = {"vocab_size": 50, "max_position_embeddings": 40, **config}
        self.config = SimpleNamespace(**stated, get_text_config=lambda: text)
        self.kept = SimpleNamespace(layers=list(layers)) if layers else None

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None):  # noqa: ARG002 - as transformers has it
        return SimpleNamespace(past_key_values=self.kept)


class Encoder(Decoder):
    def forward(self, input_ids=None, attention_mask=None): ...


def test_a_step_takes_keys_and_values_of_every_layer_an_empty_past_and_a_mask_of_both():
    module, declared = decoders.step(Decoder(layer(), layer("DynamicSlidingWindowLayer")))
    inputs, dimensions = next(declared)
    assert list(inputs) == [
        "input_ids",
        "attention_mask",
        *(f"past.{i}.{name}" for i in (0, 1) for name in ("key", "value")),
    ]
    assert inputs["past.1.key"]["shape"] == ["batch", 2, "past", 8]
    assert inputs["past.1.value"]["shape"] == ["batch", 2, "past", 6]
    assert inputs["attention_mask"]["shape"] == ["batch", "total"]
    assert (dimensions["past"], dimensions["sequence"]) == ({"min": 0, "max": 20}, {"min": 1, "max": 20})
    assert dimensions["total"]["formula"] == "past + sequence"
    assert type(module).__name__ == "Decoder"


@pytest.mark.parametrize(
    ("module", "why", "fix"),
    [
        (Decoder(layer(), is_encoder_decoder=True), "Decoder is an encoder and a decoder, which keep two caches", "released as one network"),
        (Encoder(), "Encoder takes nothing of what it computed before", "leave out --with-cache"),
        (Decoder(), "Decoder keeps nothing of what it computed", "leave out --with-cache"),
        (Decoder(layer(), layer("LinearAttentionLayer")), r"Decoder keeps something else .*: LinearAttentionLayer \(1 of 2\)", "the whole sequence"),
    ],
    ids=["encoder and decoder", "encoder", "no decoder", "another state"],
)  # fmt: skip
def test_what_has_no_such_step_is_refused_with_its_reason(module, why, fix):
    with pytest.raises(ArchitectureError, match=rf"there is no step with a cache: {why}") as caught:
        decoders.step(module)
    assert fix in caught.value.hint
