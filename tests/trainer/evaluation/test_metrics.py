import math

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG

from trainer.evaluation.metrics import (
    ACCURACY_METRICS,
    CUTOFFS,
    bootstrap_intervals,
    bootstrap_mean,
    mean_metrics,
    metrics_per_user,
    ranking_metrics,
)


def test_metrics_of_one_target_by_hand() -> None:
    per_user = metrics_per_user(np.array([0, 1, 9, 10]))
    assert per_user["recall@10"].tolist() == [1, 1, 1, 0]
    assert per_user["ndcg@10"] == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0])
    assert per_user["map@10"] == pytest.approx([1, 1 / 2, 1 / 10, 0])
    assert mean_metrics(per_user)["recall@10"] == 0.75


def test_metrics_of_several_targets_by_hand() -> None:
    # User 0: three targets at positions 1, 3 and 8, not in order. User 1: no target among the first five.
    per_user = ranking_metrics(np.array([7, 0, 2, 5]), np.array([0, 3, 4]), [5])
    assert per_user["precision@5"].tolist() == [2 / 5, 0]
    assert per_user["recall@5"].tolist() == [2 / 3, 0]
    assert per_user["hr@5"].tolist() == [1, 0]
    assert per_user["map@5"] == pytest.approx([(1 + 2 / 3) / 3, 0])
    assert per_user["mrr@5"].tolist() == [1, 0]
    assert per_user["ndcg@5"] == pytest.approx([(1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), 0])


def test_more_targets_than_the_cutoff_can_still_be_perfect() -> None:
    per_user = ranking_metrics(np.arange(8), np.array([0, 8]), [5])
    assert {name: values[0] for name, values in per_user.items()} == pytest.approx({
        "precision@5": 1, "recall@5": 5 / 8, "hr@5": 1, "map@5": 1, "mrr@5": 1, "ndcg@5": 1
    })  # fmt: skip


@pytest.mark.parametrize("most_targets", [1, 120])
def test_metrics_equal_an_independent_library(most_targets: int) -> None:
    """ir_measures calls trec_eval, whose AP divides by all targets, even beyond the cutoff: only AP is converted."""
    generator = np.random.default_rng(most_targets)
    num_users, num_items = 200, 150
    counts = generator.integers(1, most_targets + 1, num_users)
    ranks = [generator.permutation(num_items)[:count] for count in counts]
    ours = ranking_metrics(np.concatenate(ranks), np.concatenate([[0], np.cumsum(counts)]))
    relevant = {f"u{user}": {f"i{rank}": 1 for rank in user_ranks} for user, user_ranks in enumerate(ranks)}
    run = {f"u{user}": {f"i{rank}": float(-rank) for rank in range(num_items)} for user in range(num_users)}
    theirs = {"precision": P, "recall": R, "hr": Success, "map": AP, "mrr": RR, "ndcg": nDCG}
    measures = {theirs[metric] @ cutoff: (metric, cutoff) for metric in ACCURACY_METRICS for cutoff in CUTOFFS}
    compared = 0
    for value in ir_measures.iter_calc(list(measures), relevant, run):
        metric, cutoff = measures[value.measure]
        user = int(value.query_id.removeprefix("u"))
        expected = value.value * (counts[user] / min(cutoff, counts[user]) if metric == "map" else 1.0)
        assert ours[f"{metric}@{cutoff}"][user] == pytest.approx(expected, abs=1e-6), (metric, cutoff, user)
        compared += 1
    assert compared == num_users * len(measures) == num_users * len(ours)


def test_no_user_and_no_target() -> None:
    assert mean_metrics(metrics_per_user(np.array([], dtype=np.int64)))["recall@10"] == 0.0
    with pytest.raises(ValueError, match="at least one target"):
        ranking_metrics(np.array([3]), np.array([0, 1, 1]))


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_users() -> None:
    generator = np.random.default_rng(1)
    few, many = (bootstrap_mean(generator.normal(0.3, 1.0, size)) for size in (100, 10_000))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low < 0.3 < many.high


def test_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 5_000)
    interval = bootstrap_mean(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(5_000), rel=0.1)


def test_columns_share_their_resamples() -> None:
    values = np.random.default_rng(4).normal(size=(300, 1))
    first, shifted, difference = bootstrap_intervals(np.hstack([values, values + 0.5, (values + 0.5) - values]))
    assert shifted.low - first.low == pytest.approx(0.5)
    assert (difference.low, difference.high) == pytest.approx((0.5, 0.5))


def test_bootstrap_is_repeatable_and_refuses_no_users() -> None:
    values = np.arange(50, dtype=np.float64)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    with pytest.raises(ValueError, match="no user"):
        bootstrap_mean(np.array([]))
