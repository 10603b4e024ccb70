"""What the user tower makes of a history: a causal transformer, or a weighted mean.

The transformer is SASRec's (Kang and McAuley, ICDM 2018) with a learned bias on the attention for the time that lies
between two events, in logarithmic buckets (as in HSTU, Zhai et al., ICML 2024). The mean has that bias alone: it costs
a fraction of the time and is the usual user tower of retrieval models (Covington et al., RecSys 2016).
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

_MASKED = -1e9  # finite: a history without any event must not turn into NaN


@dataclass(frozen=True)
class Layout:
    """How several histories share a row, see `trainer.training.packing`; without one, each has a row of its own."""

    segments: Tensor
    """(b, n) int64: events of one history have one number."""
    positions: Tensor
    """(b, n) int64, the column an event would have in a row of its own, `history_length` - 1 for the newest one."""


class AttentionBias(nn.Module):
    """What is added to the attention: a learned number for the time between two events, and the mask of later ones."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        # Shared by all blocks, as T5 shares its position bias: half the cost of one table for each.
        self.by_age = nn.Embedding(AGE_BUCKETS, num_heads)
        nn.init.zeros_(self.by_age.weight)

    def forward(self, event_codes: Tensor, ages: Tensor | None, layout: Layout | None) -> Tensor:
        """Takes (b, n) int64 and (b, n) float32 seconds; returns (b, heads or 1, n, n) float32.

        Without ages, which says that all of them are 0, there is one head for all.
        """
        length = event_codes.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=event_codes.device).tril()
        visible = causal & (event_codes != 0)[:, None, None, :]
        if layout is not None:
            visible = visible & (layout.segments[:, None, :, None] == layout.segments[:, None, None, :])
        # A column without an event sees itself: what it holds must not depend on how many such columns there are.
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

        With `newest_only` what it returns is (b, 1, dim): the last position of the same.
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
        """The query of the last position, keys and values of all."""
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
    """What the user tower asks for the vectors after the events of a history."""

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

        Returns (b, n, dim), a vector after every event. With `newest_only`, which is all that serving reads, it is
        (b, 1, dim), the last position of the same.
        """
        return self._encode(events, self.bias(event_codes, ages, layout), layout, newest_only=newest_only)

    @abstractmethod
    def _encode(self, events: Tensor, bias: Tensor, layout: Layout | None, *, newest_only: bool) -> Tensor:
        """See `forward`; `bias` is what `AttentionBias` returns."""


class TransformerEncoder(HistoryEncoder):
    """Causal blocks over the events. For the newest event alone the last block computes one position: of two blocks
    little more than one is computed."""

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
        of_one_head = bias[:, 0, -1:] if newest_only else bias[:, 0]
        weights = torch.softmax(of_one_head, dim=-1)
        mean = weights @ self.dropout(events)
        vectors: Tensor = self.norm(mean + self.dropout(self.feed_forward(mean)))
        return vectors


def feed_forward(dim: int) -> nn.Sequential:
    """Two layers with a hidden width of four times `dim`."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
