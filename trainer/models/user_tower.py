"""The user tower: a causal transformer over the vectors of the items a user chose, and the user's features.

The architecture is SASRec's (Kang and McAuley, ICDM 2018) with a learned bias on the attention for the time that lies
between two events, in logarithmic buckets (as in HSTU, Zhai et al., ICML 2024). Training reads the output at every
position, serving only the newest one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tandem.contract.manifest import Similarity
from trainer.models.similarity import normalise

AGE_BUCKETS = 32
"""Buckets of the time between two events: bucket b holds 2^b - 1 to 2^(b+1) - 1 seconds, the last all longer times."""

_MASKED = -1e9  # finite: a history without any event must not turn into NaN


class CausalBlock(nn.Module):
    """Pre-norm attention over earlier events, then a feed-forward layer."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Takes x (b, n, dim) and bias (b, heads or 1, n, n) float32, added to the attention; returns (b, n, dim)."""
        batch, length, dim = x.shape
        heads = self.query_key_value(self.attention_norm(x)).reshape(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (b, heads, n, dim / heads)
        # Written out: the ONNX exporter of PyTorch 2.13 mistakes the memory layout of the fused operator's output.
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias, dim=-1)
        attended = self.attention_dropout(weights) @ value
        x = x + self.dropout(self.output(attended.transpose(1, 2).reshape(batch, length, dim)))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + fed


class UserTower(nn.Module):
    """Reads a history and the user's features; returns vectors in the space of the item vectors."""

    def __init__(
        self,
        *,
        dim: int,
        history_length: int,
        num_event_codes: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        feature_sizes: tuple[int, ...],
        num_users: int,
        similarity: Similarity,
    ) -> None:
        """`feature_sizes` are the codes of each user feature; `num_users` is 0 where the tower reads no user ids."""
        super().__init__()
        self.similarity: Similarity = similarity
        self.position_embedding = nn.Parameter(torch.randn(history_length, dim) * 0.02)
        self.event_embedding = nn.Embedding(num_event_codes, dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(dim=dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        # Shared by all blocks, as T5 shares its position bias: half the cost of one table for each.
        self.age_bias = nn.Embedding(AGE_BUCKETS, num_heads)
        nn.init.zeros_(self.age_bias.weight)
        self.norm = nn.LayerNorm(dim)
        self.feature_embeddings = nn.ModuleList(nn.Embedding(size, dim) for size in feature_sizes)
        self.user_embedding = nn.Embedding(num_users + 1, dim) if num_users else None
        nn.init.normal_(self.event_embedding.weight, std=0.02)
        for table in [*self.feature_embeddings, *([self.user_embedding] if self.user_embedding else [])]:
            nn.init.zeros_(table.weight)

    def forward(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """Vectors after the newest event: inputs as `tandem.contract.features.encode_users` makes them -> (b, dim)."""
        vectors = self.sequence(history_vectors, history_event_codes, history_ages, user_feature_codes, user_index)
        return vectors[:, -1]

    def sequence(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor | None,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """Vectors after every event of the history, each seeing that event and earlier ones only: (b, n, dim).

        The histories may be shorter than the tower reads: they are its newest events. `history_ages` None says that all
        ages are 0, as they are where only the order is known; the same vectors come sooner.
        """
        length = history_vectors.shape[1]
        x = history_vectors + self.event_embedding(history_event_codes) + self.position_embedding[-length:]
        x = self.dropout(x)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        visible = causal & (history_event_codes != 0)[:, None, None, :]
        bias = torch.where(visible, 0.0, _MASKED)
        if history_ages is not None:
            between = (history_ages[:, None, :] - history_ages[:, :, None]).clamp(min=0.0)  # seconds from key to query
            age_buckets = torch.log2(between + 1.0).long().clamp(max=AGE_BUCKETS - 1)
            bias = self.age_bias(age_buckets).permute(0, 3, 1, 2) + bias
        for block in self.blocks:
            x = block(x, bias)
        vectors: Tensor = self.norm(x)
        if user_feature_codes is not None:
            for column, embedding in enumerate(self.feature_embeddings):
                vectors = vectors + embedding(user_feature_codes[:, column])[:, None]
        if self.user_embedding is not None and user_index is not None:
            vectors = vectors + self.user_embedding(user_index)[:, None]
        return normalise(vectors, self.similarity)
