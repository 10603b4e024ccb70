"""What a choice of an item is worth, by what the users who chose it did."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.contract.objectives import log_values

POPULARITY = np.array([1_000, 1_000, 2, 0])
COUNTS = np.zeros((4, 6), dtype=np.uint32)
COUNTS[:, 1] = POPULARITY
COUNTS[:, 3] = [300, 100, 2, 0]


def test_the_value_is_that_of_the_rates_beside_an_average_choice() -> None:
    values = log_values(COUNTS, POPULARITY, {"click": 1.0, "purchase": 10.0})
    average = 1 + 10 * 402 / 2_002
    assert values.dtype == np.float32
    assert values[:2].tolist() == pytest.approx(np.log([4.0 / average, 2.0 / average]), abs=0.02)
    assert values[3] == 0.0, "nothing is known of it"


def test_two_sales_make_no_favourite() -> None:
    assert (
        0.0
        < log_values(COUNTS, POPULARITY, {"purchase": 1.0})[2]
        < log_values(COUNTS, POPULARITY, {"purchase": 1.0})[0]
    )


@pytest.mark.parametrize("weights", [{"click": 2.0}, {"dwell": 1.0}, {}])
def test_a_value_that_all_choices_have_or_none_changes_nothing(weights: dict[str, float]) -> None:
    assert log_values(COUNTS, POPULARITY, weights).tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
