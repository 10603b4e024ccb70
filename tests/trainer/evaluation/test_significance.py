import numpy as np
import pytest
from scipy import stats

from trainer.evaluation.significance import PERMUTATIONS, holm, sign_flip_p_values


def test_p_values_are_those_of_an_independent_library() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal([0.0, 0.2, 0.3, -0.4], 1.0, size=(60, 4))
    ours = sign_flip_p_values(differences)
    theirs = [
        stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
        for column in differences.T
    ]
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=0.03)


def test_few_users_are_tested_exactly() -> None:
    # Of the 2^4 ways to flip the signs, two are as far from 0 as the data.
    assert sign_flip_p_values(np.full((4, 1), 0.1)) == pytest.approx([2 / 16], abs=0.02)


def test_users_who_do_not_differ_say_nothing() -> None:
    differences = np.zeros((50, 2))
    assert sign_flip_p_values(differences).tolist() == [1.0, 1.0]
    differences[:3, 0] = 1.0
    assert sign_flip_p_values(differences)[0] == pytest.approx(2 / 8, abs=0.02)


def test_a_clear_difference_has_the_smallest_p_value() -> None:
    assert sign_flip_p_values(np.ones((400, 1))).tolist() == [1 / (PERMUTATIONS + 1)]


def test_p_values_under_no_difference_are_uniform() -> None:
    differences = np.random.default_rng(2).normal(size=(80, 400))
    p_values = sign_flip_p_values(differences)
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert p_values.mean() == pytest.approx(0.5, abs=0.06)


def test_holm_by_hand() -> None:
    adjusted = holm(np.array([[0.01, 0.5], [0.04, 0.6], [0.03, 0.7]]))
    assert adjusted[:, 0] == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert holm(np.empty((0, 2))).shape == (0, 2)
