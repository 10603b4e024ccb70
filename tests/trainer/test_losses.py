import pytest
import torch

from trainer.models.losses import NegativeSampler, full_softmax_loss, sampled_softmax_loss


def test_sampled_softmax_approaches_the_full_one() -> None:
    """With the logQ correction, many negatives from a skewed distribution estimate the full softmax."""
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(64, 8, generator=generator), torch.randn(200, 8, generator=generator)
    targets = torch.randint(0, 200, (64,), generator=generator)
    full = full_softmax_loss(users @ items.T, targets)
    popularity = torch.arange(1, 201) ** 2
    sampler = NegativeSampler(popularity, alpha=1.0, num_negatives=20_000, generator=generator)
    draw = sampler.draw(targets)
    corrected = sampled_softmax_loss(users, items[targets], items[draw.negative_rows], _uncorrected_target(draw), 1.0)
    assert corrected.item() == pytest.approx(full.item(), rel=0.05)


def test_negatives_follow_popularity_and_every_item_can_be_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = NegativeSampler(torch.tensor([0, 1, 98]), alpha=1.0, num_negatives=100_000, generator=generator)
    counts = torch.bincount(sampler.draw(torch.tensor([0])).negative_rows, minlength=3) / 100_000
    assert counts.tolist() == pytest.approx([0.01, 0.01, 0.98], abs=0.005)


def test_a_negative_equal_to_the_target_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = NegativeSampler(torch.tensor([1]), alpha=0.0, num_negatives=5, generator=generator)
    vector = torch.ones(1, 4)
    draw = sampler.draw(torch.tensor([0]))
    assert sampled_softmax_loss(vector, vector, vector.expand(5, 4), draw, 1.0).item() == 0.0


def _uncorrected_target(draw):
    """The target's own term as the full softmax has it: it is always there, not drawn."""
    from dataclasses import replace

    return replace(draw, target_log_q=torch.zeros_like(draw.target_log_q))
