"""Losses over the next item.

The full softmax scores every item and is exact. Past some ten thousand items it no longer fits, and the sampled softmax
takes its place: negatives drawn from a known distribution q, each score corrected by -log(expected count) so that the
estimate stays unbiased (logQ correction, Bengio and Senecal, 2008; Yi et al., RecSys 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def full_softmax_loss(logits: Tensor, target_rows: Tensor) -> Tensor:
    """Mean cross-entropy: logits (positions, items), target_rows (positions,) int64."""
    return F.cross_entropy(logits, target_rows)


def sampled_softmax_loss(
    user_vectors: Tensor, target_vectors: Tensor, negative_vectors: Tensor, draw: NegativeDraw, temperature: float
) -> Tensor:
    """Mean cross-entropy of each target against one set of negatives shared by all positions.

    user_vectors and target_vectors are (positions, dim), negative_vectors (negatives, dim). A negative that equals a
    position's target is left out for that position.
    """
    positive = (user_vectors * target_vectors).sum(dim=-1, keepdim=True) / temperature - draw.target_log_q[:, None]
    negative = user_vectors @ negative_vectors.T / temperature - draw.negative_log_q
    negative = negative.masked_fill(draw.target_rows[:, None] == draw.negative_rows, float("-inf"))
    logits = torch.cat([positive, negative], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@dataclass(frozen=True)
class NegativeDraw:
    """One draw of negatives, with the logarithm of every row's expected count in it."""

    target_rows: Tensor
    """(positions,) int64."""
    target_log_q: Tensor
    """(positions,) float32."""
    negative_rows: Tensor
    """(negatives,) int64."""
    negative_log_q: Tensor
    """(negatives,) float32."""


class NegativeSampler:
    """Draws negatives in proportion to popularity ** alpha, with replacement."""

    def __init__(self, popularity: Tensor, *, alpha: float, num_negatives: int, generator: torch.Generator) -> None:
        """`popularity` is (items,) counts; an item without interactions is drawn as if it had one."""
        weights = popularity.double().clamp(min=1.0) ** alpha
        self._probabilities = weights / weights.sum()
        self._log_expected = torch.log(self._probabilities * num_negatives).float()
        self._num_negatives = num_negatives
        self._generator = generator

    def draw(self, target_rows: Tensor) -> NegativeDraw:
        """Negatives for a batch of targets, (positions,) int64."""
        drawn = torch.multinomial(self._probabilities, self._num_negatives, replacement=True, generator=self._generator)
        negative_rows = drawn.to(target_rows.device)
        log_expected = self._log_expected.to(target_rows.device)
        return NegativeDraw(target_rows, log_expected[target_rows], negative_rows, log_expected[negative_rows])
