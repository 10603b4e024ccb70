"""Losses over the next item, each behind `ItemLoss`: it samples the items to score, then reduces scores to a number.

The full softmax scores every item and is exact. Above about ten thousand items it no longer fits in memory, and a loss
over a sample replaces it. Each item's score is then corrected by -log(expected count in the sample), so that the sum
over the sample estimates the sum over all items (logQ correction, Bengio and Senecal, 2008; Yi et al., RecSys 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config.train_config import FitConfig

_CPU_CHUNK_SCORES: Final = 1 << 19
"""Scores in a chunk of the full softmax: 2 MiB."""
_GPU_CHUNK_SCORES: Final = 1 << 26


@dataclass(frozen=True)
class Sample:
    """The items that all positions of a batch are scored against."""

    rows: Tensor
    """(sample,) int64, possibly with repeats."""
    log_weight: Tensor
    """(sample,) float32, added to the scores; under logQ log(count in the sample / expected count)."""
    target_log_weight: Tensor
    """(positions,) float32, added to the score of each position's target."""


class ItemLoss(Protocol):
    """A loss over the next item."""

    def sample(self, target_rows: Tensor) -> Sample:
        """Samples the items to score a batch against; `target_rows` is (positions,) int64."""

    def __call__(self, scored: Scored) -> Tensor:
        """The mean loss of the positions, weighted by `scored.weights`: a scalar."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Inputs of a loss for a batch."""

    user_vectors: Tensor
    """(positions, dim) float32, already divided by the temperature."""
    target_rows: Tensor
    """(positions,) int64."""
    target_vectors: Tensor
    """(positions, dim) float32."""
    sample: Sample
    sample_vectors: Tensor
    """(sample, dim) float32."""
    weights: Tensor | None = None
    """(positions,) float32, how much each position counts; at least one is above 0. None: all count alike."""

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of the positions' losses, (positions,) float32: a scalar."""
        return losses.mean() if self.weights is None else (losses * self.weights).sum() / self.weights.sum()

    def target_scores(self) -> Tensor:
        """(positions,) float32."""
        return (self.user_vectors * self.target_vectors).sum(dim=-1)

    def sample_scores(self) -> Tensor:
        """(positions, sample) float32."""
        return self.user_vectors @ self.sample_vectors.T

    def is_target(self) -> Tensor:
        """(positions, sample) bool, whether an item of the sample is the position's own target."""
        return self.target_rows[:, None] == self.sample.rows


class FullSoftmax:
    """Cross-entropy over all negatives, which include every target."""

    def __init__(self, is_negative: Tensor) -> None:
        """`is_negative` is (items,) bool."""
        self._rows = torch.nonzero(is_negative)[:, 0]
        self._indices = torch.cumsum(is_negative, dim=0) - 1

    def sample(self, target_rows: Tensor) -> Sample:
        """All negatives, in row order."""
        return _unweighted(self._rows.to(target_rows.device), target_rows)

    def __call__(self, scored: Scored) -> Tensor:
        """Mean cross-entropy."""
        targets = self._indices.to(scored.target_rows.device)[scored.target_rows]
        shares = None if scored.weights is None else scored.weights / scored.weights.sum()
        loss: Tensor = _FullCrossEntropy.apply(scored.user_vectors, scored.sample_vectors, targets, shares)  # type: ignore[no-untyped-call]
        return loss


class _FullCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of inner products, computed in chunks with the gradients, so the matrix is never in memory.

    A batch has thousands of positions and the catalogue thousands of items. The plain operators read and write the
    matrix between them about ten times. In chunks that stay in the processor's cache the loss took 0.27 s instead of
    0.66 s for 7,000 positions and 3,883 items on one core. On a GPU the chunks are larger. The idea is from "Cut Your
    Losses in Large-Vocabulary Language Models" (Wijmans et al., ICLR 2025).
    """

    @staticmethod
    def forward(
        ctx: Any, user_vectors: Tensor, item_vectors: Tensor, target_rows: Tensor, shares: Tensor | None
    ) -> Tensor:
        """(positions, dim), (items, dim), (positions,) int64 -> a scalar; `shares`, (positions,) float32 with sum 1,
        are those of the positions in the mean, None: equal ones."""
        num_positions = len(user_vectors)
        chunk = max(1, (_GPU_CHUNK_SCORES if user_vectors.is_cuda else _CPU_CHUNK_SCORES) // len(item_vectors))
        user_gradient = torch.empty_like(user_vectors)
        item_gradient = torch.zeros_like(item_vectors)
        total = user_vectors.new_zeros(())
        for start in range(0, num_positions, chunk):
            users = user_vectors[start : start + chunk]
            targets = target_rows[start : start + chunk, None]
            scores = users @ item_vectors.T
            highest = scores.amax(dim=1, keepdim=True)
            target_scores = scores.gather(1, targets)
            exponentials = scores.sub_(highest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            losses = sums.log() + highest - target_scores
            if shares is None:
                total += losses.sum()
                gradient = exponentials.mul_(1.0 / (sums * num_positions))
                gradient.scatter_add_(1, targets, torch.full_like(target_scores, -1.0 / num_positions))
            else:
                share = shares[start : start + chunk, None]
                total += (losses * share).sum()
                gradient = exponentials.mul_(share / sums)
                gradient.scatter_add_(1, targets, -share)
            user_gradient[start : start + chunk] = gradient @ item_vectors
            item_gradient.addmm_(gradient.T, users)
        ctx.save_for_backward(user_gradient, item_gradient)
        return total / num_positions if shares is None else total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scales the gradients that `forward` computed."""
        user_gradient, item_gradient = ctx.saved_tensors
        return user_gradient * gradients[0], item_gradient * gradients[0], None, None


class _SampledSoftmax:
    """Cross-entropy of each target against the sample without that target."""

    def __call__(self, scored: Scored) -> Tensor:
        """Mean cross-entropy; a position's own target in the sample is masked for that position."""
        positive = scored.target_scores() + scored.sample.target_log_weight
        negative = scored.sample_scores() + scored.sample.log_weight
        negative = negative.masked_fill(scored.is_target(), float("-inf"))
        # The same as cross_entropy on [positive, negative], without a copy of the large matrix. The positive score is
        # always finite.
        log_sum = torch.logsumexp(negative, dim=1) if negative.shape[1] else torch.full_like(positive, float("-inf"))
        return scored.mean(F.softplus(log_sum - positive))


class SampledSoftmax(_SampledSoftmax):
    """Negatives drawn in proportion to popularity ** alpha, with replacement."""

    def __init__(
        self,
        popularity: Tensor,
        is_negative: Tensor,
        *,
        alpha: float,
        num_negatives: int,
        correct_targets: bool,
        generator: torch.Generator,
    ) -> None:
        """`popularity` is (items,) counts, `is_negative` (items,) bool; a negative without interactions counts as if it
        had one."""
        weights = popularity.double().clamp(min=1.0) ** alpha * is_negative
        self._draw = _Draw(weights, num_negatives, generator)
        self._log_expected = torch.log(weights / weights.sum() * num_negatives).float()
        self._correct_targets = correct_targets

    def sample(self, target_rows: Tensor) -> Sample:
        """A draw that all positions share."""
        rows = self._draw().to(target_rows.device)
        log_expected = self._log_expected.to(target_rows.device)
        return Sample(rows, -log_expected[rows], _target_weight(log_expected[target_rows], self._correct_targets))


class InBatchSoftmax(_SampledSoftmax):
    """The targets of the batch are each other's negatives; `num_uniform` more are drawn uniformly from all negatives.

    Without uniform draws these are in-batch negatives (Yi et al., RecSys 2019); with them, mixed negative sampling
    (Yang et al., WWW 2020), in which items that are seldom a target are negatives too. A target that occurs several
    times in the batch is scored once with its count as weight, which gives the same sum.
    """

    def __init__(
        self,
        popularity: Tensor,
        is_negative: Tensor,
        *,
        num_uniform: int,
        correct_targets: bool,
        generator: torch.Generator,
    ) -> None:
        """`popularity` is (items,) counts of targets, which give an item's expected count in a batch; uniform draws are
        from `is_negative`, (items,) bool."""
        counts = popularity.double().clamp(min=1.0) * is_negative
        self._share = counts / counts.sum()
        self._expected_uniform = is_negative.double() * (num_uniform / int(is_negative.sum()))
        self._draw = _Draw(is_negative.double(), num_uniform, generator)
        self._correct_targets = correct_targets

    def sample(self, target_rows: Tensor) -> Sample:
        """The distinct targets of the batch, and the uniform draws."""
        device = target_rows.device
        batch_targets, counts = torch.unique(target_rows, return_counts=True)
        expected = self._share * len(target_rows) + self._expected_uniform
        log_expected = torch.log(expected).float().to(device)
        drawn = self._draw().to(device)
        rows = torch.cat([batch_targets, drawn])
        times = torch.cat([counts, torch.ones_like(drawn)])
        return Sample(
            rows,
            torch.log(times.float()) - log_expected[rows],
            _target_weight(log_expected[target_rows], self._correct_targets),
        )


class GeneralisedBce:
    """Binary cross-entropy with sigma(positive) ** beta against uniform negatives (gSASRec, Petrov & Macdonald, 2023).

    With few negatives, a plain binary loss makes a model overconfident. The power beta = a (t (1 - 1/a) + 1/a), where
    a = negatives / (items - 1) is the sampling rate, corrects that: t = 1 gives calibrated probabilities, t = 0 the
    plain loss. All positions of a batch share the negatives; gSASRec draws negatives for each position.
    """

    def __init__(self, is_negative: Tensor, *, num_negatives: int, t: float, generator: torch.Generator) -> None:
        """Negatives are drawn from `is_negative`, (items,) bool."""
        self._draw = _Draw(is_negative.double(), num_negatives, generator)
        rate = min(1.0, num_negatives / max(1, int(is_negative.sum()) - 1))
        self.beta = rate * (t * (1 - 1 / rate) + 1 / rate)

    def sample(self, target_rows: Tensor) -> Sample:
        """A uniform draw that all positions share, without log weights."""
        rows = self._draw().to(target_rows.device)
        return _unweighted(rows, target_rows)

    def __call__(self, scored: Scored) -> Tensor:
        """Mean over positions and their 1 + negatives terms."""
        positive = self.beta * F.softplus(-scored.target_scores())
        negative = F.softplus(scored.sample_scores().masked_fill(scored.is_target(), float("-inf"))).sum(dim=1)
        return scored.mean((positive + negative) / (1 + len(scored.sample.rows)))


class _Draw:
    """Draws rows with replacement in proportion to weights: (items,) float64 -> (n,) int64 on the CPU."""

    def __init__(self, weights: Tensor, num_draws: int, generator: torch.Generator) -> None:
        # A search in the cumulative weights costs draws * log(items); torch.multinomial allows at most 2^24 items.
        self._cumulative = torch.cumsum(weights, dim=0)
        self._last = int(torch.nonzero(weights)[-1, 0])
        self._num_draws = num_draws
        self._generator = generator

    def __call__(self) -> Tensor:
        draws = torch.rand(self._num_draws, generator=self._generator, dtype=torch.float64) * self._cumulative[-1]
        rows = torch.searchsorted(self._cumulative, draws, right=True)
        return rows.clamp(max=self._last)


def _unweighted(rows: Tensor, target_rows: Tensor) -> Sample:
    return Sample(
        rows, torch.zeros(len(rows), device=rows.device), torch.zeros(len(target_rows), device=target_rows.device)
    )


def _target_weight(log_expected: Tensor, correct: bool) -> Tensor:
    return -log_expected if correct else torch.zeros_like(log_expected)


def item_loss(config: FitConfig, popularity: Tensor, generator: torch.Generator) -> ItemLoss:
    """The loss that `fit.loss` names; `popularity` is (items,) counts, `generator` draws the negatives."""
    num_items = len(popularity)
    is_negative = torch.ones(num_items, dtype=torch.bool) if config.unchosen_negatives else popularity > 0
    kind = config.loss
    if kind == "auto":
        kind = "full" if num_items <= config.full_softmax_max_items else "sampled"
    match kind:
        case "full":
            return FullSoftmax(is_negative)
        case "sampled":
            return SampledSoftmax(
                popularity,
                is_negative,
                alpha=config.negative_alpha,
                num_negatives=config.num_negatives,
                correct_targets=config.correct_targets,
                generator=generator,
            )
        case "gbce":
            return GeneralisedBce(is_negative, num_negatives=config.num_negatives, t=config.gbce_t, generator=generator)
        case "in-batch" | "mixed":
            return InBatchSoftmax(
                popularity,
                is_negative,
                num_uniform=config.num_negatives if kind == "mixed" else 0,
                correct_targets=config.correct_targets,
                generator=generator,
            )
