"""Every protocol from the split to the figures, without leaks, on users who walk along a ring of items."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from tandem.contract import names
from tests.trainer.known_answers import Table, split_of
from tests.trainer.training.fitting import NUM_ITEMS, ring_config, ring_data
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset, everything
from trainer.dataset.eval_split import one_target_each
from trainer.dataset.splits import draw_splits
from trainer.experiments.cold_items import cold_items
from trainer.experiments.protocols import ProtocolKind, protocol_of
from trainer.experiments.seeds import evaluate_protocol
from trainer.experiments.test_set_metrics import SERVED, TWO_TOWERS, fitted_scorers
from trainer.features.encoded import Encoded
from trainer.scoring.served_scorers import ServedScorer
from trainer.training.fit import unreported
from trainer.training.train import fit_plan

CONFIG = ring_config(fit__max_epochs="2", fit__warmup_epochs="1")
SPLITS = ("random", "time", "cold-items")


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """The ring, with ratings and a different time for every event."""
    ring = ring_data(CONFIG)
    num_events = len(ring.dataset.item_rows)
    generator = np.random.default_rng(0)
    dataset = replace(
        ring.dataset,
        event_times=1_000_000 * (1 + np.arange(num_events)),
        ratings=generator.integers(1, 6, num_events).astype(np.float32),
    )
    return replace(ring, dataset=dataset)


def _with_other_targets(dataset: Dataset, asked: np.ndarray) -> Dataset:
    """The data set with the next item and another rating in the events where `asked`, (events,) bool, is true."""
    return replace(
        dataset,
        item_rows=np.where(asked, (dataset.item_rows + 1) % NUM_ITEMS, dataset.item_rows),
        ratings=np.where(asked, np.float32(1.0), dataset.ratings),
    )


@pytest.mark.parametrize("kind", SPLITS)
def test_no_target_reaches_the_model(kind, encoded) -> None:
    protocol = protocol_of(encoded, kind)
    # Known events stay; all other events change.
    split = protocol.questions[0].split
    changed = replace(
        split, target_rows=(split.target_rows + 1) % NUM_ITEMS, target_ratings=np.ones_like(split.target_ratings)
    )
    whole = encoded.dataset
    known = set(zip(split.known.user_rows.tolist(), split.known.item_rows.tolist(), strict=True))
    pairs = zip(whole.user_rows.tolist(), whole.item_rows.tolist(), strict=True)
    asked = np.array([pair not in known for pair in pairs])
    assert asked.any()
    other = replace(encoded, dataset=_with_other_targets(whole, asked))
    plan, again = protocol.plan, replace_plan(other, protocol)
    first, second = (fit_plan(fitted_plan, CONFIG, on_epoch=unreported) for fitted_plan in (plan, again))
    assert first.shares == second.shares
    assert first.best_epoch == second.best_epoch
    users = np.arange(len(whole.user_ids))
    for name in (SERVED, TWO_TOWERS):
        scores = fitted_scorers(first, plan, split)[name].scores(users)
        np.testing.assert_array_equal(scores, fitted_scorers(second, again, changed)[name].scores(users))


def replace_plan(encoded: Encoded, protocol):
    """The protocol's plan, from data in which only the known events are as before."""
    from trainer.training.plan import plan_of_splits

    return plan_of_splits(encoded, protocol.validation, protocol.questions[0].split.known)


@pytest.mark.parametrize("kind", SPLITS)
def test_the_refit_knows_all_events_but_the_targets(kind, encoded) -> None:
    protocol = protocol_of(encoded, kind)
    final = protocol.plan.final.dataset
    for question in protocol.questions:
        split = question.split
        assert split.known.item_rows.tolist() == final.item_rows.tolist()
        users = np.repeat(split.users, np.diff(split.target_offsets)).tolist()
        targets = zip(users, split.target_rows.tolist(), strict=True)
        known = set(zip(final.user_rows.tolist(), final.item_rows.tolist(), strict=True))
        assert not known & set(targets)
    assert protocol.plan.cut.num_history_events.tolist() == final.lengths.tolist()
    assert protocol.plan.selection.dataset.lengths.sum() < final.lengths.sum()


def test_cold_items_have_no_id(encoded) -> None:
    protocol = protocol_of(encoded, "cold-items")
    cold = cold_items(encoded.dataset).rows
    for learned in (protocol.plan.selection, protocol.plan.final):
        index = learned.item_tensors[names.ITEM_INDEX]
        assert (index[cold] == 0).all()
        assert (np.delete(index, cold) > 0).all()


@pytest.mark.parametrize("kind", get_args(ProtocolKind))
def test_every_protocol_gives_figures_of_every_seed(kind, encoded) -> None:
    protocol = protocol_of(encoded, kind)
    result = evaluate_protocol(encoded, protocol, CONFIG, data="ring", num_seeds=2, baselines="popularity")
    read = json.loads(result.to_json())
    assert read["protocol"] == kind
    assert read["seeds"] == [0, 1]
    assert "min(10" in read["map"]
    text = result.to_text()
    assert f"protocol {kind}" in text
    for name, found in read["questions"].items():
        assert f"## {name}" in text
        assert len(found["seeds"][SERVED]["map@10"]["values"]) == 2
        assert found["first_seed"]["baseline"] == "Popularity"
        assert "p_value" in found["first_seed"]["models"][SERVED]["differences"]["ndcg@10"]
    if kind == "cold-items":
        assert "Expected of a random order: recall@50" in text
        assert "| model | recall@50 |" in text
    if kind == "random":
        assert read["ratings"]["num_ratings"] == len(draw_splits(encoded.dataset, "random").test.target_rows)
        assert 0 < read["ratings"]["by_model"]["SVD of ratings"]["rmse"] < 4
    else:
        assert read["ratings"] is None


def test_one_target_each_leaves_out_users_without_history() -> None:
    split = split_of([[0, 1], [], [2]], {0: [3, 4, 5], 1: [6], 2: [7]}, num_items=9)
    hold_out = one_target_each(split)
    assert hold_out.users.tolist() == [0, 2]
    assert hold_out.target_rows[0] in (3, 4, 5)
    assert hold_out.target_rows[1] == 7
    assert everything(split.known).users.tolist() == [0, 2]


def test_users_without_history_are_served_popular_items() -> None:
    split = split_of([[0, 1], [], [1]], {1: [0]}, num_items=3)
    table = np.arange(9, dtype=np.float32).reshape(3, 3)
    scores = ServedScorer(split.known, Table(table)).scores(np.array([2, 1]))
    assert scores.tolist() == [[6.0, 7.0, 8.0], [1.0, 2.0, 0.0]]


def test_a_split_in_time_needs_times(encoded) -> None:
    timeless = replace(encoded.dataset, event_times=np.zeros_like(encoded.dataset.event_times))
    with pytest.raises(DataError, match="needs times"):
        protocol_of(replace(encoded, dataset=timeless), "time")
