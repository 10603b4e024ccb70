"""Losses against the full softmax, hand-made sums and known gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config.train_config import FitConfig
from trainer.models.losses import (
    FullSoftmax,
    GeneralisedBce,
    InBatchSoftmax,
    ItemLoss,
    Sample,
    SampledSoftmax,
    Scored,
    item_loss,
)

POPULARITY = torch.arange(1, 201) ** 2
ALL = torch.ones(200, dtype=torch.bool)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _vectors() -> tuple[Tensor, Tensor]:
    """64 users and 200 items."""
    generator = _generator()
    return torch.randn(64, 8, generator=generator), torch.randn(200, 8, generator=generator)


def _scored(users: Tensor, items: Tensor, targets: Tensor, sample: Sample) -> Scored:
    return Scored(
        user_vectors=users,
        target_rows=targets,
        target_vectors=items[targets],
        sample=sample,
        sample_vectors=items[sample.rows],
    )


def _loss(loss: ItemLoss, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return loss(_scored(users, items, targets, loss.sample(targets)))


def _full(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(users @ items.T, targets)


def test_the_full_softmax_is_the_cross_entropy_over_all_items() -> None:
    users, items = _vectors()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    assert _loss(FullSoftmax(ALL), users, items, targets).item() == pytest.approx(_full(users, items, targets).item())


def test_negatives_of_a_skewed_draw_estimate_the_full_softmax_and_its_gradient() -> None:
    users, items = _vectors()
    items.requires_grad_()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    loss = SampledSoftmax(
        POPULARITY, ALL, alpha=0.5, num_negatives=50_000, correct_targets=False, generator=_generator()
    )
    sampled, full = _loss(loss, users, items, targets), _full(users, items, targets)
    assert sampled.item() == pytest.approx(full.item(), rel=0.02)
    (expected,), (estimated,) = torch.autograd.grad(full, items), torch.autograd.grad(sampled, items)
    assert (estimated - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("num_uniform", [0, 5_000])
def test_batches_of_targets_estimate_the_full_softmax(num_uniform) -> None:
    users, items = _vectors()
    popularity = POPULARITY + 1_000
    share = popularity / popularity.sum()
    targets = torch.multinomial(share, 50_000, replacement=True, generator=_generator())
    users = users.repeat(len(targets) // 64 + 1, 1)[: len(targets)]
    loss = InBatchSoftmax(
        popularity, ALL[: len(popularity)], num_uniform=num_uniform, correct_targets=False, generator=_generator()
    )
    sampled = _loss(loss, users, items, targets)
    assert sampled.item() == pytest.approx(_full(users, items, targets).item(), rel=0.01)


def test_repeated_targets_weigh_as_if_each_were_listed() -> None:
    users, items = _vectors()
    targets = torch.tensor([3, 3, 7, 9, 3, 7])
    loss = InBatchSoftmax(POPULARITY, ALL, num_uniform=0, correct_targets=True, generator=_generator())
    log_expected = torch.log(POPULARITY / POPULARITY.sum() * len(targets))
    logits = users[:6] @ items[targets].T - log_expected[targets]
    negatives = logits.masked_fill(targets[:, None] == targets, float("-inf"))
    listed = F.cross_entropy(
        torch.cat([logits.diagonal()[:, None], negatives], dim=1), torch.zeros(6, dtype=torch.long)
    )
    assert _loss(loss, users[:6], items, targets).item() == pytest.approx(listed.item(), rel=1e-5)


def test_a_sample_of_all_items_once_is_the_full_softmax() -> None:
    users, items = _vectors()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    loss = SampledSoftmax(POPULARITY, ALL, alpha=0.0, num_negatives=200, correct_targets=True, generator=_generator())
    every = Sample(torch.arange(200), torch.zeros(200), torch.zeros(64))
    assert loss(_scored(users, items, targets, every)).item() == pytest.approx(_full(users, items, targets).item())


def test_negatives_follow_popularity_and_every_item_can_be_drawn() -> None:
    loss = SampledSoftmax(
        torch.tensor([0, 1, 98]),
        ALL[:3],
        alpha=1.0,
        num_negatives=100_000,
        correct_targets=True,
        generator=_generator(),
    )
    counts = torch.bincount(loss.sample(torch.tensor([0])).rows, minlength=3) / 100_000
    assert counts.tolist() == pytest.approx([0.01, 0.01, 0.98], abs=0.005)


@pytest.mark.parametrize("kind", ["sampled", "in-batch", "mixed"])
def test_the_loss_of_a_catalogue_with_only_the_target_is_zero(kind) -> None:
    loss = item_loss(FitConfig(loss=kind, num_negatives=5), torch.tensor([1]), _generator())
    vector = torch.ones(1, 4, requires_grad=True)
    result = _loss(loss, vector, vector, torch.tensor([0]))
    result.backward()
    assert result.item() == 0.0
    assert not vector.grad.any()


def test_gbce_without_calibration_is_the_binary_cross_entropy_and_beta_follows_the_paper() -> None:
    users, items = _vectors()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    plain = GeneralisedBce(ALL, num_negatives=19, t=0.0, generator=_generator())
    assert plain.beta == 1.0
    sample = plain.sample(targets)
    logits = torch.cat([(users * items[targets]).sum(1, keepdim=True), users @ items[sample.rows].T], dim=1)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    kept = torch.ones_like(logits)
    kept[:, 1:][targets[:, None] == sample.rows] = 0.0
    expected = F.binary_cross_entropy_with_logits(logits, labels, weight=kept)
    assert plain(_scored(users, items, targets, sample)).item() == pytest.approx(expected.item(), rel=1e-5)
    # t = 1: beta is the sampling rate. In between it is linear in t.
    assert GeneralisedBce(ALL, num_negatives=19, t=1.0, generator=_generator()).beta == pytest.approx(19 / 199)
    assert GeneralisedBce(ALL, num_negatives=19, t=0.5, generator=_generator()).beta == pytest.approx(
        (1 + 19 / 199) / 2
    )


def test_the_gradient_of_gbce_on_the_target_is_beta_times_that_of_the_plain_loss() -> None:
    score = torch.tensor(0.3, requires_grad=True)
    loss = GeneralisedBce(ALL[:101], num_negatives=10, t=0.75, generator=_generator())
    scored = Scored(
        user_vectors=score.reshape(1, 1),
        target_rows=torch.tensor([0]),
        target_vectors=torch.ones(1, 1),
        sample=Sample(torch.tensor([0] * 10), torch.zeros(10), torch.zeros(1)),
        sample_vectors=torch.ones(10, 1),
    )
    loss(scored).backward()
    assert score.grad.item() == pytest.approx(-loss.beta / (1 + math.exp(0.3)) / 11)


@pytest.mark.parametrize("kind", ["full", "sampled", "in-batch", "mixed", "gbce"])
def test_large_scores_stay_finite(kind) -> None:
    users, items = _vectors()
    users = (1_000 * users).requires_grad_()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    loss = _loss(item_loss(FitConfig(loss=kind, num_negatives=64), POPULARITY, _generator()), users, items, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(users.grad).all()


@pytest.mark.parametrize("kind", ["full", "sampled", "in-batch", "mixed", "gbce"])
def test_items_that_nobody_chose_can_be_left_out_of_the_negatives(kind) -> None:
    """The loss then equals the loss of a catalogue without these items."""
    users, items = _vectors()
    popularity = torch.where(torch.arange(200) % 3 == 1, 0, POPULARITY)
    chosen = torch.nonzero(popularity)[:, 0]
    indices = torch.randint(0, len(chosen), (64,), generator=_generator())
    config = FitConfig(loss=kind, num_negatives=64, unchosen_negatives=False)
    without = item_loss(config, popularity, _generator())
    rows = without.sample(chosen[indices]).rows
    assert (popularity[rows] > 0).all()
    loss_of_all, loss_of_chosen = (
        _loss(item_loss(config, counts, _generator()), users, vectors, targets)
        for counts, vectors, targets in (
            (popularity, items, chosen[indices]),
            (popularity[chosen], items[chosen], indices),
        )
    )
    assert loss_of_all.item() == pytest.approx(loss_of_chosen.item(), rel=1e-5)


def test_auto_scores_a_small_catalogue_in_full() -> None:
    config = FitConfig(full_softmax_max_items=200)
    assert isinstance(item_loss(config, POPULARITY, _generator()), FullSoftmax)
    assert isinstance(item_loss(config, torch.ones(201), _generator()), SampledSoftmax)


def test_the_full_softmax_in_chunks_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of three positions, and a smaller last chunk.
    monkeypatch.setattr("trainer.models.losses._CPU_CHUNK_SCORES", 3 * 20)
    generator = _generator()
    users = torch.randn(10, 4, generator=generator, requires_grad=True)
    items = torch.randn(20, 4, generator=generator, requires_grad=True)
    targets = torch.randint(20, (10,), generator=generator)
    expected = F.cross_entropy(30 * users @ items.T, targets)
    expected_gradients = torch.autograd.grad(expected, [users, items])
    loss = FullSoftmax(ALL[:20])
    scored = Scored(
        user_vectors=30 * users,
        target_rows=targets,
        target_vectors=items[targets],
        sample=loss.sample(targets),
        sample_vectors=items,
    )
    actual = loss(scored)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, [users, items]), expected_gradients)


@pytest.mark.parametrize("kind", ["full", "sampled", "in-batch", "mixed", "gbce"])
def test_weights_count_positions_as_often_as_they_say(kind: str) -> None:
    """A position of weight 2 counts as two positions, one of weight 0 not at all; gradients too."""
    config = FitConfig(loss=kind, num_negatives=50)
    users, items = _vectors()
    targets = torch.randint(0, 200, (64,), generator=_generator())
    weights = torch.randint(0, 4, (64,), generator=_generator()).float()
    loss = item_loss(config, POPULARITY, _generator())
    sample = loss.sample(targets)
    repeated = torch.repeat_interleave(torch.arange(64), weights.long())
    results = []
    for chosen, of_chosen in ((torch.arange(64), weights), (repeated, None)):
        leaf = users.clone().requires_grad_()
        part = Sample(sample.rows, sample.log_weight, sample.target_log_weight[chosen])
        value = loss(replace(_scored(leaf[chosen], items, targets[chosen], part), weights=of_chosen))
        value.backward()
        results.append((value.item(), leaf.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1])
