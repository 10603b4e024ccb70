"""The k-core: the largest subset of the interactions in which every user and every item has at least k."""

from __future__ import annotations

from typing import Any

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.engine import Engine, write_counted


def k_core(engine: Engine, interactions: Any, num_interactions: int, k: int) -> tuple[Any, dict[str, int]]:
    """Returns (interactions in the core, number of dropped rows by kind).

    `interactions` has `num_interactions` rows, each a different (user, item). Dropping a user can leave an item with
    fewer than k interactions, and vice versa, so users and items are dropped alternately until nothing is dropped. The
    core does not depend on the order, but the counts by kind do: users are dropped first.
    """
    dropped = {kinds.USER_BELOW_CORE: 0, kinds.ITEM_BELOW_CORE: 0}
    turn = 0
    while True:
        before = num_interactions
        for column, kind in ((names.USER_ID, kinds.USER_BELOW_CORE), (names.ITEM_ID, kinds.ITEM_BELOW_CORE)):
            counts = interactions.group_by(column).agg(num_events=interactions.count())
            enough = counts.filter(counts["num_events"] >= k)
            turn += 1
            path = engine.work_dir / f"core_{turn}.parquet"
            interactions, num_left = write_counted(engine, interactions.semi_join(enough, column), path)
            dropped[kind] += num_interactions - num_left
            num_interactions = num_left
        if num_interactions == before:
            return interactions, dropped
