"""Filters: the items that each user may be shown, in a form that the search itself can apply.

The stage comes before retrieval, not after it: filtering the retrieved items would leave fewer than `num_items`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from inference_server.core.query import NO_FILTER, Clause, ItemFilter
from inference_server.core.request_warnings import RequestWarning, WarningKind
from inference_server.model.catalogue.item_mask import ItemMask
from inference_server.model.engine.search import Allowed
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.ladder import FILTER, Rung
from inference_server.request.flow.limits import validate_list
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Admitted, User
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, NO_ROWS, Rows, id_keys

_IDS_PER_CHUNK = 1_000
"""Ids of a long list whose keys are computed, in 0.7 ms, before other requests have their turn."""


@stage(FILTER, budgeted=lambda users: users[0].rung is not Rung.FROM_MEMORY)
def filter_items(users: Sequence[User]) -> list[Allowed]:
    """The items that each of the users may be shown; there is at least one user."""
    seen = _seen_rows(users, users[0].admitted.model)
    return [_allowed(user.admitted, seen_rows) for user, seen_rows in zip(users, seen, strict=True)]


async def look_up_long_list(item_filter: ItemFilter, model: ServingModel) -> None:
    """Computes the keys of a long exclude list that is not known yet, in chunks: other requests have turns in between.

    Raises InvalidRequest for an id that is empty or too long.
    """
    catalogue = model.catalogue
    if not item_filter.exclude_digest or catalogue.knows_list(item_filter.exclude_digest):
        return
    keys = []
    for start in range(0, len(item_filter.exclude_item_ids), _IDS_PER_CHUNK):
        ids = item_filter.exclude_item_ids[start : start + _IDS_PER_CHUNK]
        validate_list("filter.exclude_item_ids", ids, _IDS_PER_CHUNK, first_index=start)
        keys.append(id_keys(ids))
        await asyncio.sleep(0)
    catalogue.remember_list(item_filter.exclude_digest, np.concatenate(keys))


def check_filter(item_filter: ItemFilter, model: ServingModel) -> None:
    """Raises InvalidRequest for a predicate that an attribute cannot have, before the request joins a batch."""
    if item_filter.attributes:
        model.catalogue.check(item_filter.attributes, field="filter.attributes")


def filter_warnings(item_filter: ItemFilter, rules: Clause, model: ServingModel) -> tuple[RequestWarning, ...]:
    """What is most likely wrong with a filter, beside a policy's rules. A filter that was seen before costs a look-up
    or two."""
    if item_filter is NO_FILTER and rules.demands_nothing:
        return ()
    clause = _clause(item_filter)
    if clause.demands_nothing:
        if rules.demands_nothing or model.catalogue.mask((rules,)).num_items:
            return ()
        return (RequestWarning(WarningKind.MATCHES_NOTHING, "scenario: no item passes the rules of its policy"),)
    return model.catalogue.warnings((clause,) if rules.demands_nothing else (clause, rules), field="filter")


def recent_items_warnings(item_ids: Sequence[str], model: ServingModel) -> tuple[RequestWarning, ...]:
    """The warning that the catalogue has none of a request's recent items; for answers that are not personal."""
    if len(model.known_rows(id_keys(item_ids))):
        return ()
    message = f"recent_item_ids: none of {len(item_ids)} is in the catalogue; the first is {item_ids[0]!r}"
    return (RequestWarning(WarningKind.UNKNOWN_ITEMS, message),)


def allowed_by_filter(item_filter: ItemFilter, model: ServingModel, excluded: Rows) -> Allowed:
    """The items that pass a filter, less the `excluded` rows."""
    clauses = () if item_filter is NO_FILTER else (_clause(item_filter),)
    return _apply(item_filter, tuple(clause for clause in clauses if not clause.demands_nothing), model, excluded)


def _allowed(admitted: Admitted, seen_rows: Rows) -> Allowed:
    item_filter = admitted.query.filter
    rules = admitted.policy.rules
    excluded = seen_rows
    if len(admitted.shown_rows):
        shown_rows = admitted.model.catalogue.rows_of_stable(admitted.shown_rows)
        excluded = np.concatenate([seen_rows, shown_rows[shown_rows != MISSING_ROW]])
    if item_filter is NO_FILTER and rules.demands_nothing:
        return Allowed(None, excluded)
    clauses = tuple(clause for clause in (_clause(item_filter), rules) if not clause.demands_nothing)
    return _apply(item_filter, clauses, admitted.model, excluded)


def _apply(item_filter: ItemFilter, clauses: tuple[Clause, ...], model: ServingModel, excluded: Rows) -> Allowed:
    catalogue = model.catalogue
    mask: ItemMask | None = catalogue.mask(clauses) if clauses else None
    if item_filter.exclude_digest:
        if not catalogue.knows_list(item_filter.exclude_digest):  # evicted by other lists
            catalogue.remember_list(item_filter.exclude_digest, id_keys(item_filter.exclude_item_ids))
        mask = catalogue.mask_without(clauses, item_filter.exclude_digest)
    elif item_filter.exclude_item_ids:
        excluded = np.concatenate([excluded, catalogue.known_rows(id_keys(item_filter.exclude_item_ids))])
    return Allowed(mask, excluded)


def _seen_rows(users: Sequence[User], model: ServingModel) -> list[Rows]:
    """Rows of the items that each user has interacted with; no rows for a user whose answer may contain them."""
    keys_by_user = [user.state.seen_item_keys if _excludes_seen(user.admitted) else NO_KEYS for user in users]
    rows = model.catalogue.vocabulary.rows_of_keys(np.concatenate(keys_by_user)) if keys_by_user else NO_ROWS
    ends = np.cumsum([len(keys) for keys in keys_by_user])
    rows_by_user = np.split(rows, ends[:-1])
    return [seen if not len(seen) or seen.min() >= 0 else seen[seen != MISSING_ROW] for seen in rows_by_user]


def _excludes_seen(admitted: Admitted) -> bool:
    return admitted.query.exclude_seen if admitted.policy.exclude_seen is None else admitted.policy.exclude_seen


def _clause(item_filter: ItemFilter) -> Clause:
    return Clause(item_filter.include_categories, item_filter.exclude_categories, item_filter.attributes)
