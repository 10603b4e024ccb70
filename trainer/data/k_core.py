"""The k-core: the greatest part of the interactions in which every user and every item has at least k of them."""

from __future__ import annotations

from typing import Any

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.engine import Engine, write_counted


def k_core(engine: Engine, interactions: Any, num_interactions: int, k: int) -> tuple[Any, dict[str, int]]:
    """(interactions in the core, rows dropped by kind). `interactions` are `num_interactions` different (user, item).

    Dropping a user can leave an item with too few, and the other way round, so both are dropped in turns until a turn
    drops nothing. The core does not depend on who is dropped first; which kind a row counts as does: users are.
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
            interactions, left = write_counted(engine, interactions.semi_join(enough, column), path)
            dropped[kind] += num_interactions - left
            num_interactions = left
        if num_interactions == before:
            return interactions, dropped
