from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.architectures.bert import BertEncoder
from pipeline.errors import ArchitectureError

SMALL = {
    "vocab_size": 50, "hidden_size": 24, "layers": 2, "heads": 3,
    "intermediate_size": 40, "max_positions": 16, "type_vocab_size": 2,
}  # fmt: skip

# Word pieces of MiniLM's vocabulary, with [CLS] and [SEP] around them.
SENTENCES = [
    [101, 1996, 4937, 7719, 2006, 1996, 13523, 102],  # the cat sits on the mat
    [101, 1037, 18401, 2003, 3564, 2006, 1037, 20452, 102],  # a kitten is sitting on a rug
    [101, 1996, 4518, 3006, 3062, 2651, 102],  # the stock market fell today
]


def _small_network() -> BertEncoder:
    torch.manual_seed(0)
    network = BertEncoder(**SMALL).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)  # also the normalisation, which starts as ones and zeros
    return network


def _inputs(batch=3, length=11):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (batch, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([[length], [4], [1]])).long()
    return ids, mask, torch.randint(0, 2, (batch, length), generator=generator)


def _normalise(weights, name, x):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _dense(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _attend(weights, name, x, mask, heads):
    query, key, value = (_dense(weights, f"{name}.self.{part}", x) for part in ("query", "key", "value"))
    width = x.shape[-1] // heads
    contexts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, :, part] @ key[:, :, part].transpose(0, 2, 1) / math.sqrt(width)
        shares = np.exp(scores) * mask[:, None, :]
        contexts.append(shares / shares.sum(-1, keepdims=True) @ value[:, :, part])
    projected = _dense(weights, f"{name}.output.dense", np.concatenate(contexts, -1))
    return _normalise(weights, f"{name}.output.LayerNorm", projected + x)


def _reference(weights, ids, mask, types):
    """BERT's forward in numpy, head by head."""
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][types]
    x = _normalise(
        weights, "embeddings.LayerNorm", x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    )
    for layer in range(SMALL["layers"]):
        name = f"encoder.layer.{layer}"
        x = _attend(weights, f"{name}.attention", x, mask, SMALL["heads"])
        wide = _dense(weights, f"{name}.intermediate.dense", x)
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = _normalise(weights, f"{name}.output.LayerNorm", _dense(weights, f"{name}.output.dense", wide) + x)
    return x, np.tanh(_dense(weights, "pooler.dense", x[:, 0]))


def test_equals_the_published_forward_written_in_numpy():
    network, inputs = _small_network(), _inputs()
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    expected = _reference(weights, *(each.numpy() for each in inputs))
    with torch.no_grad():
        got = network(*inputs)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-11)


def test_equals_the_transformers_package():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=SMALL["vocab_size"],
        hidden_size=SMALL["hidden_size"],
        num_hidden_layers=SMALL["layers"],
        num_attention_heads=SMALL["heads"],
        intermediate_size=SMALL["intermediate_size"],
        max_position_embeddings=SMALL["max_positions"],
    )
    network, (ids, mask, types) = _small_network(), _inputs()
    theirs = transformers.BertModel(config).double().eval()
    fit = theirs.load_state_dict(network.state_dict(), strict=False)
    # Newer versions no longer save the positions; all else must be the same.
    assert (fit.missing_keys, fit.unexpected_keys) == ([], ["embeddings.position_ids"])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types)
        hidden, pooled = network(ids, mask, types)
    torch.testing.assert_close(hidden, expected.last_hidden_state)
    torch.testing.assert_close(pooled, expected.pooler_output)


def test_masked_positions_change_nothing():
    network, (ids, mask, types) = _small_network(), _inputs()
    other = torch.where(mask == 1, ids, (ids + 7) % 50)
    assert not torch.equal(other, ids)
    with torch.no_grad():
        before, after = network(ids, mask, types)[0], network(other, mask, types)[0]
    assert torch.equal(before[mask == 1], after[mask == 1])


def test_sentences_of_like_meaning_have_like_vectors(weights):
    network = BertEncoder().eval()
    network.load_state_dict(weights("minilm"))
    length = max(map(len, SENTENCES))
    ids = torch.tensor([[*sentence, *[0] * (length - len(sentence))] for sentence in SENTENCES])
    mask = (ids != 0).long()
    with torch.no_grad():
        hidden, _pooled = network(ids, mask, torch.zeros_like(ids))
    vectors = torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=1)
    cat_kitten, cat_market = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert cat_kitten > 0.6
    assert cat_market < 0.2


@pytest.mark.parametrize("heads", [7, 0, -2])
def test_heads_that_do_not_divide_the_hidden_size_are_refused(heads):
    with pytest.raises(ArchitectureError, match=f"hidden_size=384 into heads={heads}") as caught:
        BertEncoder(heads=heads)
    assert caught.value.hint == f"set model.arguments.heads to {6 if heads == 7 else 1}"
