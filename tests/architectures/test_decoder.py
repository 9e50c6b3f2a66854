"""A decoder of transformers, step by step, gives what it gives at once, under the names that its weights have."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from pipeline.architectures.decoder import with_cache
from pipeline.errors import ArchitectureError
from pipeline.run.init import shipped

REAL = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed: make sweep-pretrained"
)


def test_it_is_nothing_that_weights_could_be_for():
    assert not [each for each in shipped() if "decoder" in each]


def test_a_network_that_takes_no_cache_is_refused():
    with pytest.raises(ArchitectureError, match=r"Linear\.forward takes nothing of what was computed before"):
        with_cache(torch.nn.Linear(2, 2))


@REAL
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("window", [None, 4], ids=["whole", "sliding window"])
def test_steps_of_any_length_from_an_empty_past_on_give_what_one_call_gives(window):
    import transformers

    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=16,
        sliding_window=window,
    )  # fmt: skip
    network = transformers.MistralForCausalLM(config).eval().double()
    names = list(network.state_dict())
    ids = torch.randint(0, 50, (2, 12))
    with torch.no_grad():
        whole = network(ids, use_cache=False).logits
        step = with_cache(network)
        past = [{"key": torch.zeros(2, 2, 0, 4).double(), "value": torch.zeros(2, 2, 0, 4).double()}] * 2
        logits = []
        for start, end in ((0, 5), (5, 6), (6, 12)):
            result = step(ids[:, start:end], past, torch.ones(2, end, dtype=torch.int64))
            past = result["past"]
            logits.append(result["logits"])
    assert torch.allclose(torch.cat(logits, 1), whole, rtol=0, atol=1e-12)
    assert past[1]["key"].shape == (2, 2, 12, 4)
    assert list(step.state_dict()) == names
