"""Encoders of a history in the user tower: a causal transformer, or a weighted mean.

The transformer is SASRec's (Kang and McAuley, ICDM 2018) with a learned attention bias for the time between two events,
in logarithmic buckets (as in HSTU, Zhai et al., ICML 2024). The mean is weighted by that bias alone: it costs a
fraction of the time and is the usual user tower of retrieval models (Covington et al., RecSys 2016).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

AGE_BUCKETS = 32
"""Buckets of the time between two events: bucket b holds 2^b - 1 to 2^(b+1) - 1 seconds, the last all longer times."""

_MASKED = -1e9  # finite, because a history without events must not become NaN


@dataclass(frozen=True)
class Layout:
    """Several histories in a row, see `trainer.training.packing`; without a layout, each history has its own row."""

    segments: Tensor
    """(b, n) int64: all events of a history have the same number."""
    positions: Tensor
    """(b, n) int64, the column that the event has in a row of its own; `history_length` - 1 for the newest event."""


class AttentionBias(nn.Module):
    """Attention bias: a learned number for the time between two events, and the mask of later events."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        # Shared by all blocks, as T5 shares its position bias: half the cost of a table per block.
        self.by_age = nn.Embedding(AGE_BUCKETS, num_heads)
        nn.init.zeros_(self.by_age.weight)

    def forward(self, event_codes: Tensor, ages: Tensor | None, layout: Layout | None) -> Tensor:
        """Takes (b, n) int64 and (b, n) float32 seconds; returns (b, heads or 1, n, n) float32.

        `ages` None means that all ages are 0; the result then has a single head.
        """
        length = event_codes.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=event_codes.device).tril()
        visible = causal & (event_codes != 0)[:, None, None, :]
        if layout is not None:
            visible = visible & (layout.segments[:, None, :, None] == layout.segments[:, None, None, :])
        # A column without an event sees itself: its vector must not depend on the number of empty columns.
        visible = visible | torch.eye(length, dtype=torch.bool, device=event_codes.device)
        bias = torch.where(visible, 0.0, _MASKED)
        if ages is None:
            return bias
        between = (ages[:, None, :] - ages[:, :, None]).clamp(min=0.0)  # seconds from key to query
        buckets = torch.log2(between + 1.0).long().clamp(max=AGE_BUCKETS - 1)
        by_age: Tensor = self.by_age(buckets)
        return by_age.permute(0, 3, 1, 2) + bias


class CausalBlock(nn.Module):
    """Pre-norm attention over earlier events, then a feed-forward layer."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim)
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, *, newest_only: bool = False) -> Tensor:
        """Takes x (b, n, dim) and bias (b, heads or 1, n, n) float32, added to the attention; returns (b, n, dim).

        With `newest_only` it returns only the last position, (b, 1, dim).
        """
        normed = self.attention_norm(x)
        if newest_only:
            x, bias = x[:, -1:], bias[:, :, -1:]
            query, key, value = self._heads_of_newest(normed)
        else:
            query, key, value = self._split_heads(self.query_key_value(normed), 3)
        batch, length, dim = x.shape
        # Written out: the ONNX exporter of PyTorch 2.13 mistakes the memory layout of the fused operator's output.
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias, dim=-1)
        attended = self.attention_dropout(weights) @ value
        x = x + self.dropout(self.output(attended.transpose(1, 2).reshape(batch, length, dim)))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + fed

    def _heads_of_newest(self, normed: Tensor) -> tuple[Tensor, ...]:
        """The query of the last position, and the keys and values of all positions."""
        dim = normed.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        (query,) = self._split_heads(functional.linear(normed[:, -1:], weight[:dim], bias[:dim]), 1)
        key, value = self._split_heads(functional.linear(normed, weight[dim:], bias[dim:]), 2)
        return query, key, value

    def _split_heads(self, projected: Tensor, count: int) -> tuple[Tensor, ...]:
        """(b, n, count * dim) -> `count` of (b, heads, n, dim / heads)."""
        batch, length, _ = projected.shape
        return projected.reshape(batch, length, count, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class HistoryEncoder(nn.Module, ABC):
    """Base of the encoders, which compute the vectors after the events of a history."""

    bias: AttentionBias

    def forward(
        self,
        events: Tensor,
        event_codes: Tensor,
        ages: Tensor | None,
        layout: Layout | None,
        *,
        newest_only: bool = False,
    ) -> Tensor:
        """Takes (b, n, dim) float32 events, (b, n) int64 codes, (b, n) float32 ages in seconds or None for all 0.

        Returns (b, n, dim), a vector after every event. With `newest_only` it returns only the last position,
        (b, 1, dim), which is all that serving reads.
        """
        return self._encode(events, self.bias(event_codes, ages, layout), layout, newest_only=newest_only)

    @abstractmethod
    def _encode(self, events: Tensor, bias: Tensor, layout: Layout | None, *, newest_only: bool) -> Tensor:
        """See `forward`; `bias` is the result of `AttentionBias`."""


class TransformerEncoder(HistoryEncoder):
    """Causal blocks over the events. For the newest event alone, the last block computes a single position: two blocks
    then cost little more than one block."""

    def __init__(self, *, dim: int, history_length: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.randn(history_length, dim) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(dim=dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.bias = AttentionBias(num_heads)
        self.norm = nn.LayerNorm(dim)

    def _encode(self, events: Tensor, bias: Tensor, layout: Layout | None, *, newest_only: bool) -> Tensor:
        newest = self.position_embedding[len(self.position_embedding) - events.shape[1] :]
        x = self.dropout(events + (newest if layout is None else self.position_embedding[layout.positions]))
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, bias, newest_only=newest_only and number == len(self.blocks))
        vectors: Tensor = self.norm(x)
        return vectors


class MeanEncoder(HistoryEncoder):
    """The mean of the events so far, weighted by their ages, then a feed-forward layer."""

    def __init__(self, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.bias = AttentionBias(1)
        self.feed_forward = feed_forward(dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def _encode(self, events: Tensor, bias: Tensor, layout: Layout | None, *, newest_only: bool) -> Tensor:  # noqa: ARG002 - a mean knows no positions
        log_weights = bias[:, 0, -1:] if newest_only else bias[:, 0]
        weights = torch.softmax(log_weights, dim=-1)
        mean = weights @ self.dropout(events)
        vectors: Tensor = self.norm(mean + self.dropout(self.feed_forward(mean)))
        return vectors


def feed_forward(dim: int) -> nn.Sequential:
    """Two layers with a hidden width of four times `dim`."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
