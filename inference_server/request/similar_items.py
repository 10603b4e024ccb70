"""Similar items: a search with the mean vector of the named items, in the same index and with the same filters as
recommendations."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

import numpy as np

from inference_server.core.answers import Answer, Reason
from inference_server.core.degradation import Source
from inference_server.core.errors import InvalidRequest, UnknownItem
from inference_server.core.query import Clause, SimilarQuery
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.limits import (
    DEFAULT_NUM_ITEMS,
    MAX_IDS,
    new_request_id,
    validate_filter,
    validate_list,
    validate_num_items,
)
from inference_server.request.stages.answer import MAX_BECAUSE_ITEMS
from inference_server.request.stages.filter_items import (
    allowed_by_filter,
    check_filter,
    filter_warnings,
    look_up_long_list,
)
from tandem.contract import names
from tandem.contract.vocabulary import MISSING_ROW, Rows, id_keys

_NO_RULES: Final = Clause()
"""Policies are for recommendations alone."""


async def similar_items(query: SimilarQuery, model: ServingModel, threads: Executor) -> Answer:
    """The items with the highest inner product with the mean vector of the named items, which are left out.

    The named items may be dead: callers ask for items similar to one that is sold out.

    Raises InvalidRequest, UnknownItem.
    """
    validate_num_items(query.num_items)
    if not query.item_ids:
        raise InvalidRequest("item_ids", "is empty")
    validate_list("item_ids", query.item_ids, MAX_IDS)
    validate_filter(query.filter)
    check_filter(query.filter, model)
    await look_up_long_list(query.filter, model)
    rows = model.catalogue.vocabulary.rows_of_keys(id_keys(query.item_ids))
    for item_id, row in zip(query.item_ids, rows.tolist(), strict=True):
        if row == MISSING_ROW:
            raise UnknownItem(f"item_ids: there is no item {item_id!r}")
    vectors = model.catalogue.vectors[rows]
    vector = vectors.mean(axis=0)
    if model.bundle.manifest.similarity == "cosine":
        vector /= max(float(np.linalg.norm(vector)), 1e-12)
    allowed = allowed_by_filter(query.filter, model, rows)
    num_items = query.num_items or DEFAULT_NUM_ITEMS
    found = await asyncio.get_running_loop().run_in_executor(
        threads, model.search.nearest, vector.reshape(1, -1), num_items, [allowed]
    )
    order = np.lexsort((found.rows[0], -found.scores[0]))
    order = order[found.rows[0][order] != MISSING_ROW]
    near, scores = found.rows[0][order], found.scores[0][order].tolist()
    return Answer(
        request_id=new_request_id(),
        item_ids=model.catalogue.item_ids(near),
        scores=scores,
        reasons=_explain(near, scores, rows, model) if query.explain else None,
        model_version=model.version,
        variant=model.variant,
        source=Source.RETRIEVED,
        degraded_reasons=(),
        warnings=filter_warnings(query.filter, _NO_RULES, model),
    )


def _explain(near: Rows, scores: list[float], rows: Rows, model: ServingModel) -> list[Reason]:
    catalogue = model.catalogue
    named = np.unique(rows)
    similarities = catalogue.vectors[near] @ catalogue.vectors[named].T
    nearest = named[np.argsort(-similarities, axis=1, kind="stable")[:, :MAX_BECAUSE_ITEMS]]
    return [
        Reason(
            source=names.SOURCE_TWO_TOWER,
            because_item_ids=tuple(catalogue.item_ids(because)),
            score_parts={names.SOURCE_TWO_TOWER: score},
            title=catalogue.title(row),
        )
        for row, score, because in zip(near.tolist(), scores, nearest, strict=True)
    ]
