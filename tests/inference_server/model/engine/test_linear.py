"""Scores of histories in a batch, from the sources that know pairs of items."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.model.engine import linear
from inference_server.model.engine.linear import LinearScores, LinearSource
from tandem.contract.item_item import ItemItem, item_item_scores
from tandem.contract.manifest import Calibration, ItemItemSpec
from tandem.contract.vocabulary import MISSING_ROW

NUM_ITEMS = 50
GENERATOR = np.random.default_rng(0)
NAME = "item_item"
WEIGHTS = ItemItem(
    np.stack([GENERATOR.permutation(NUM_ITEMS)[:8] for _ in range(NUM_ITEMS)]).astype(np.int32),
    -np.sort(-GENERATOR.random((NUM_ITEMS, 8)), axis=1).astype(np.float16),
)
HISTORY = GENERATOR.integers(0, NUM_ITEMS, (4, 200))
OLDER = [GENERATOR.integers(0, NUM_ITEMS, count) for count in (30, 0, 5, 1)]


def _source(*, whole_history: bool) -> LinearSource:
    return LinearSource(WEIGHTS, ItemItemSpec(0.5, 1000.0, Calibration(0.0, 1.0), whole_history=whole_history))


@pytest.mark.parametrize("whole_history", [False, True])
def test_candidates_have_the_scores_of_all_items(whole_history: bool) -> None:
    expected = item_item_scores(WEIGHTS, HISTORY, 1000.0, older_rows=OLDER if whole_history else ())
    rows = GENERATOR.integers(0, NUM_ITEMS, (4, 9))
    for first in (True, False):
        scores = LinearScores({NAME: _source(whole_history=whole_history)}, HISTORY, OLDER)
        if first:
            assert scores.of_all_items(NAME).tolist() == expected.tolist()
        assert scores.of_rows(NAME, slice(None), rows).tolist() == np.take_along_axis(expected, rows, axis=1).tolist()
        group = [3, 1]
        found = scores.of_rows(NAME, group, rows[group])
        assert found.tolist() == np.take_along_axis(expected[group], rows[group], axis=1).tolist()


def test_scores_of_a_long_history_are_kept_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(whole_history=True)
    expected = LinearScores({NAME: source}, HISTORY, OLDER).of_all_items(NAME)
    assert len(source.kept) == 3, "the second user has no older items"
    asked: list[int] = []

    def counted(weights, history_rows, decay_events, rows=None, *, older_rows=()):
        asked.append(len(history_rows))
        return item_item_scores(weights, history_rows, decay_events, rows, older_rows=older_rows)

    monkeypatch.setattr(linear, "item_item_scores", counted)
    again = LinearScores({NAME: source}, HISTORY, OLDER).of_all_items(NAME)
    assert again.tolist() == expected.tolist()
    assert asked == [1]
    moved = np.concatenate([HISTORY[:, 1:], HISTORY[:, :1]], axis=1)
    changed = LinearScores({NAME: source}, moved, OLDER).of_all_items(NAME)
    assert asked == [1, 4]
    assert changed.tolist() == item_item_scores(WEIGHTS, moved, 1000.0, older_rows=OLDER).tolist()


def test_as_many_scores_are_kept_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_KEPT_BYTES", 2 * 4 * NUM_ITEMS)
    source = _source(whole_history=True)
    LinearScores({NAME: source}, HISTORY, OLDER).of_all_items(NAME)
    keys = list(source.kept)
    assert len(keys) == 2
    LinearScores({NAME: source}, HISTORY[2:3], OLDER[2:3]).of_all_items(NAME)
    assert list(source.kept) == [keys[1], keys[0]], "the latest used comes last"


def test_the_history_that_is_not_proposed_is_the_one_that_is_read() -> None:
    short = LinearSource(WEIGHTS, ItemItemSpec(0.5, 1.0, Calibration(0.0, 1.0)))
    scores = LinearScores({NAME: short, "whole": _source(whole_history=True)}, HISTORY, OLDER)
    assert [len(rows) for rows in scores.history_of(NAME)] == [5] * 4
    assert [len(rows) for rows in scores.history_of("whole")] == [230, 200, 205, 201]
    empty = LinearScores({NAME: short}, np.full((1, 10), MISSING_ROW))
    assert not empty.of_all_items(NAME).any()
