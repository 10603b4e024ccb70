"""Losses over the next item, each behind `ItemLoss`: it names the items it scores, then turns scores into one number.

The full softmax scores every item and is exact. Past some ten thousand items it no longer fits, and a loss over a
sample takes its place. Each item is then corrected by -log(how often it is expected in the sample), so that the sum
over the sample estimates the sum over all items (logQ correction, Bengio and Senecal, 2008; Yi et al., RecSys 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config.train_config import FitConfig

_CPU_PART_SCORES: Final = 1 << 19
"""Scores of the full softmax at once: 2 MiB."""
_GPU_PART_SCORES: Final = 1 << 26


@dataclass(frozen=True)
class Sample:
    """The items that all positions of a batch are scored against."""

    rows: Tensor
    """(sample,) int64, possibly with repeats."""
    log_weight: Tensor
    """(sample,) float32: what is added to a score; log(times it stands for / times it is expected) under logQ."""
    target_log_weight: Tensor
    """(positions,) float32, the same for each position's target."""


class ItemLoss(Protocol):
    """A loss over the next item."""

    def sample(self, target_rows: Tensor) -> Sample:
        """The items to score a batch against; target_rows is (positions,) int64."""

    def __call__(self, scored: Scored) -> Tensor:
        """The mean loss of the positions, a scalar."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A batch with everything that a loss needs."""

    user_vectors: Tensor
    """(positions, dim) float32, already divided by the temperature."""
    target_rows: Tensor
    """(positions,) int64."""
    target_vectors: Tensor
    """(positions, dim) float32."""
    sample: Sample
    sample_vectors: Tensor
    """(sample, dim) float32."""

    def target_scores(self) -> Tensor:
        """(positions,) float32."""
        return (self.user_vectors * self.target_vectors).sum(dim=-1)

    def sample_scores(self) -> Tensor:
        """(positions, sample) float32."""
        return self.user_vectors @ self.sample_vectors.T

    def is_target(self) -> Tensor:
        """(positions, sample) bool: where the sample holds a position's own target."""
        return self.target_rows[:, None] == self.sample.rows


class FullSoftmax:
    """Cross-entropy over all negatives, which include every target."""

    def __init__(self, is_negative: Tensor) -> None:
        """`is_negative` is (items,) bool."""
        self._rows = torch.nonzero(is_negative)[:, 0]
        self._places = torch.cumsum(is_negative, dim=0) - 1

    def sample(self, target_rows: Tensor) -> Sample:
        """Every negative once, in row order."""
        return _unweighted(self._rows.to(target_rows.device), target_rows)

    def __call__(self, scored: Scored) -> Tensor:
        """Mean cross-entropy."""
        targets = self._places.to(scored.target_rows.device)[scored.target_rows]
        loss: Tensor = _FullCrossEntropy.apply(scored.user_vectors, scored.sample_vectors, targets)  # type: ignore[no-untyped-call]
        return loss


class _FullCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of inner products that are never all in memory, with the gradients found on the way.

    A batch has thousands of positions and the catalogue thousands of items, and the matrix between them is read and
    written some ten times by the plain operators. In parts that stay in the processor's cache it took 0.27 s instead of
    0.66 s for 7,000 positions and 3,883 items on one core. On a GPU the parts are larger. The idea is that of "Cut Your
    Losses in Large-Vocabulary Language Models" (Wijmans et al., ICLR 2025).
    """

    @staticmethod
    def forward(ctx: Any, user_vectors: Tensor, item_vectors: Tensor, target_rows: Tensor) -> Tensor:
        """(positions, dim), (items, dim), (positions,) int64 -> a scalar."""
        num_positions = len(user_vectors)
        part = max(1, (_GPU_PART_SCORES if user_vectors.is_cuda else _CPU_PART_SCORES) // len(item_vectors))
        user_gradient = torch.empty_like(user_vectors)
        item_gradient = torch.zeros_like(item_vectors)
        total = user_vectors.new_zeros(())
        for start in range(0, num_positions, part):
            users = user_vectors[start : start + part]
            targets = target_rows[start : start + part, None]
            scores = users @ item_vectors.T
            highest = scores.amax(dim=1, keepdim=True)
            target_scores = scores.gather(1, targets)
            exponentials = scores.sub_(highest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            total += (sums.log() + highest - target_scores).sum()
            gradient = exponentials.mul_(1.0 / (sums * num_positions))
            gradient.scatter_add_(1, targets, torch.full_like(target_scores, -1.0 / num_positions))
            user_gradient[start : start + part] = gradient @ item_vectors
            item_gradient.addmm_(gradient.T, users)
        ctx.save_for_backward(user_gradient, item_gradient)
        return total / num_positions

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scales what `forward` found."""
        user_gradient, item_gradient = ctx.saved_tensors
        return user_gradient * gradients[0], item_gradient * gradients[0], None


class _SampledSoftmax:
    """Cross-entropy of each target against the sample without it."""

    def __call__(self, scored: Scored) -> Tensor:
        """Mean cross-entropy; an item of the sample that is a position's target is left out for that position."""
        positive = scored.target_scores() + scored.sample.target_log_weight
        negative = scored.sample_scores() + scored.sample.log_weight
        negative = negative.masked_fill(scored.is_target(), float("-inf"))
        # The same as cross_entropy on [positive, negative], without a copy of the large matrix. At least one finite
        # score is always there: the positive.
        others = torch.logsumexp(negative, dim=1) if negative.shape[1] else torch.full_like(positive, float("-inf"))
        return F.softplus(others - positive).mean()


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
        """`popularity` is (items,) counts, `is_negative` (items,) bool; a negative without interactions is drawn as if
        it had one."""
        weights = popularity.double().clamp(min=1.0) ** alpha * is_negative
        self._draw = _Draw(weights, num_negatives, generator)
        self._log_expected = torch.log(weights / weights.sum() * num_negatives).float()
        self._correct_targets = correct_targets

    def sample(self, target_rows: Tensor) -> Sample:
        """One draw, shared by all positions."""
        rows = self._draw().to(target_rows.device)
        log_expected = self._log_expected.to(target_rows.device)
        return Sample(rows, -log_expected[rows], _target_weight(log_expected[target_rows], self._correct_targets))


class InBatchSoftmax(_SampledSoftmax):
    """The targets of the batch are each other's negatives; `num_uniform` more are drawn from all items alike.

    Without uniform draws these are in-batch negatives (Yi et al., RecSys 2019); with them, mixed negative sampling
    (Yang et al., WWW 2020), in which items that are seldom a target are negatives too. Targets that stand in the batch
    several times are scored once with their count as weight, which gives the same sum.
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
        """`popularity` is (items,) counts of targets, from which follows how often an item is expected in a batch;
        `is_negative`, (items,) bool, is drawn from."""
        counts = popularity.double().clamp(min=1.0) * is_negative
        self._share = counts / counts.sum()
        self._expected_uniform = is_negative.double() * (num_uniform / int(is_negative.sum()))
        self._draw = _Draw(is_negative.double(), num_uniform, generator)
        self._correct_targets = correct_targets

    def sample(self, target_rows: Tensor) -> Sample:
        """The targets of the batch, each once, and the uniform draws."""
        device = target_rows.device
        of_batch, counts = torch.unique(target_rows, return_counts=True)
        expected = self._share * len(target_rows) + self._expected_uniform
        log_expected = torch.log(expected).float().to(device)
        drawn = self._draw().to(device)
        rows = torch.cat([of_batch, drawn])
        times = torch.cat([counts, torch.ones_like(drawn)])
        return Sample(
            rows,
            torch.log(times.float()) - log_expected[rows],
            _target_weight(log_expected[target_rows], self._correct_targets),
        )


class GeneralisedBce:
    """Binary cross-entropy with sigma(positive) ** beta against uniform negatives (gSASRec, Petrov & Macdonald, 2023).

    Few negatives teach a plain binary loss that everything likely is certain. The power beta = a (t (1 - 1/a) + 1/a),
    of the sampling rate a = negatives / (items - 1), corrects that: t = 1 gives calibrated probabilities, t = 0 the
    plain loss. The negatives are shared by all positions of a batch, where gSASRec draws some for each position.
    """

    def __init__(self, is_negative: Tensor, *, num_negatives: int, t: float, generator: torch.Generator) -> None:
        """`is_negative`, (items,) bool, is drawn from."""
        self._draw = _Draw(is_negative.double(), num_negatives, generator)
        rate = min(1.0, num_negatives / max(1, int(is_negative.sum()) - 1))
        self.beta = rate * (t * (1 - 1 / rate) + 1 / rate)

    def sample(self, target_rows: Tensor) -> Sample:
        """One uniform draw, shared by all positions; nothing is corrected by weights."""
        rows = self._draw().to(target_rows.device)
        return _unweighted(rows, target_rows)

    def __call__(self, scored: Scored) -> Tensor:
        """Mean over positions and their 1 + negatives terms."""
        positive = self.beta * F.softplus(-scored.target_scores())
        negative = F.softplus(scored.sample_scores().masked_fill(scored.is_target(), float("-inf"))).sum(dim=1)
        return ((positive + negative) / (1 + len(scored.sample.rows))).mean()


class _Draw:
    """Draws rows with replacement in proportion to weights: (items,) float64 -> (n,) int64 on the CPU."""

    def __init__(self, weights: Tensor, num_draws: int, generator: torch.Generator) -> None:
        # Searching the cumulative weights costs draws * log(items); torch.multinomial also stops at 2^24 items.
        self._cumulative = torch.cumsum(weights, dim=0)
        self._last = int(torch.nonzero(weights)[-1, 0])
        self._num_draws = num_draws
        self._generator = generator

    def __call__(self) -> Tensor:
        places = torch.rand(self._num_draws, generator=self._generator, dtype=torch.float64) * self._cumulative[-1]
        rows = torch.searchsorted(self._cumulative, places, right=True)
        return rows.clamp(max=self._last)


def _unweighted(rows: Tensor, target_rows: Tensor) -> Sample:
    return Sample(
        rows, torch.zeros(len(rows), device=rows.device), torch.zeros(len(target_rows), device=target_rows.device)
    )


def _target_weight(log_expected: Tensor, correct: bool) -> Tensor:
    return -log_expected if correct else torch.zeros_like(log_expected)


def item_loss(config: FitConfig, popularity: Tensor, generator: torch.Generator) -> ItemLoss:
    """The loss that `fit.loss` names; popularity is (items,) counts, `generator` draws the negatives."""
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
