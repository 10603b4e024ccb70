import math

import numpy as np
import pytest

from trainer.evaluation.metrics import bootstrap_mean, mean_metrics, metrics_per_user


def test_metrics_of_known_ranks() -> None:
    per_user = metrics_per_user(np.array([0, 1, 9, 10]))
    assert per_user["recall@10"].tolist() == [1, 1, 1, 0]
    assert per_user["ndcg@10"] == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0])
    assert per_user["map@10"] == pytest.approx([1, 1 / 2, 1 / 10, 0])
    assert mean_metrics(per_user)["recall@10"] == 0.75


def test_mean_of_no_user_is_zero() -> None:
    assert mean_metrics(metrics_per_user(np.array([], dtype=np.int64)))["recall@10"] == 0.0


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_users() -> None:
    generator = np.random.default_rng(1)
    few, many = (bootstrap_mean(generator.normal(0.3, 1.0, size)) for size in (100, 10_000))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low < 0.3 < many.high


def test_bootstrap_is_repeatable_and_refuses_no_users() -> None:
    values = np.arange(50, dtype=np.float64)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    with pytest.raises(ValueError, match="no user"):
        bootstrap_mean(np.array([]))
