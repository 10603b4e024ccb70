"""Tells operators which names of the policies the served catalogue does not have.

Such a name is no error of the file: the next bundle or a live item may have it. Until then a misspelt category empties
a scenario, or boosts nothing, in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog

from inference_server.core.query import Clause
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.catalogue.filter_warnings import filter_warnings
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.policy.policy import Policy
from inference_server.policy.policy_file import Policies, PolicyFile
from inference_server.request.stages.select import boost_clause

_log = structlog.get_logger()

_MAX_PROBLEMS: Final = 20


def policy_problems(policies: Policies, model: ServingModel) -> list[str]:
    """One line for each name that the catalogue does not have, for each scenario whose rules no item passes, and for
    each objective without an event in the model's data."""
    problems = list(_problems(policies.default, model, "default"))
    of_default = {problem.partition(".")[2] for problem in problems}
    for name, policy in policies.scenarios.items():
        # A scenario inherits the keys of the default policy, and with them what is wrong.
        found = _problems(policy, model, f"scenarios.{name}")
        problems += [problem for problem in found if problem.removeprefix(f"scenarios.{name}.") not in of_default]
    return problems


def _problems(policy: Policy, model: ServingModel, field: str) -> Iterator[str]:
    catalogue = model.catalogue
    yield from _of_clause(policy.rules, catalogue, field)
    for index, boost in enumerate(policy.boosts):
        for problem in _of_clause(boost_clause(boost), catalogue, f"{field}.boosts[{index}]"):
            yield _as_a_boost_writes(problem)
    if policy.objectives is not None:
        for name in sorted(policy.objectives.by_type.keys() - model.item_values.event_types):
            yield f"{field}.objectives.{name}: the model's data do not say which items lead to it"
    categories = set().union(*(part.categories for part in catalogue.clause_filters))
    for category in policy.category_caps:
        if category not in categories:
            yield f"{field}.category_caps: no item has the category {category!r}"


def _of_clause(clause: Clause, catalogue: Catalogue, field: str) -> Iterator[str]:
    if clause.demands_nothing:
        return
    num_items = catalogue.mask((clause,)).num_items
    warnings = filter_warnings(clause, catalogue.clause_filters, field=field, num_items=num_items, has_rules=False)
    for warning in warnings:
        yield warning.message


def _as_a_boost_writes(problem: str) -> str:
    """A problem with the keys of a boost, which has one category or one attribute, not lists of them."""
    named = problem.replace(".include_categories[0]:", ".category:", 1).replace(
        ".attributes[0].name:", ".attribute:", 1
    )
    return named.replace(".attributes[0].", ".", 1)


async def follow_policies(policies: PolicyFile, models: ModelSlot, *, poll_seconds: float = 1.0) -> None:
    """Logs the problems of the policies in force with the model in service, whenever either has changed, until it is
    cancelled."""
    checked = ("", "")
    while True:
        current, model = policies.current, models.current
        if model is not None and current.fingerprint and checked != (current.fingerprint, model.version):
            checked = (current.fingerprint, model.version)
            if problems := policy_problems(current, model):
                _log.warning(
                    "policies_name_what_is_not_there",
                    model_version=model.version,
                    problems=problems[:_MAX_PROBLEMS],
                    left_out=max(0, len(problems) - _MAX_PROBLEMS),
                )
        await asyncio.sleep(poll_seconds)
