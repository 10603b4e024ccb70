"""Who is in a canary: a layer of the table of experiments, with a hash of its own.

The canary takes the users at one end of the hash's scale, so that a larger share only ever adds users to it. Its
control group are those at the other end, as many up to half of all users: both are alike, and what differs is the
model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from inference_server.core.query import Query
from tandem.contract.experiments import (
    DEFAULT_STICKINESS,
    FULL_ROLLOUT,
    Assignment,
    Caller,
    ExperimentTable,
    Flag,
    Variant,
    Variants,
)

CANARY: Final = "canary"
CONTROL: Final = "control"
ARMS: Final = (CANARY, CONTROL)
FULL_PERCENT: Final = 100.0
_TOTAL: Final = 10_000
"""The scale of the hash: shares count hundredths of a percent."""


def canary_layer(experiment: str, *, model: str, percent: float) -> Flag | None:
    """The layer in which `percent` of the users are answered by `model`, and as many are its control.

    `experiment` names it in answers, and is the salt of the hash. None: nobody is.
    """
    taken = round(_TOTAL * percent / FULL_PERCENT)
    if not taken:
        return None
    control = min(taken, _TOTAL - taken)
    arms = (
        Variant(name=CANARY, weight=taken, assignment=Assignment(experiment=experiment, arm=CANARY, model=model)),
        Variant(name="neither", weight=_TOTAL - taken - control),
        Variant(name=CONTROL, weight=control, assignment=Assignment(experiment=experiment, arm=CONTROL)),
    )
    variants = Variants(group=experiment, stickiness=DEFAULT_STICKINESS, variants=arms, total=_TOTAL)
    return Flag(name=experiment, variants=variants)


def sticky_value(query: Query) -> str:
    """The value that decides whether a request is in the canary; empty where it has none."""
    return Caller(query.user_id, query.context).identifier(DEFAULT_STICKINESS)


def layer_of_everybody(table: ExperimentTable) -> str:
    """The name of the layer that puts every user into an experiment of models, and leaves none to a canary; empty: no
    layer does."""
    taken = {arm.experiment for arm in table.arms if arm.model}
    return next((layer.name for layer in table.layers if _takes_everybody(layer, taken)), "")


def _takes_everybody(layer: Flag, taken: Collection[str]) -> bool:
    if not layer.enabled or layer.parents:
        return False
    for strategy in layer.strategies or (None,):
        if strategy is not None and (strategy.constraints or strategy.user_ids is not None):
            continue  # some users at most
        variants = layer.variants if strategy is None else strategy.variants or layer.variants
        if variants is None or (strategy is not None and strategy.rollout not in {None, FULL_ROLLOUT}):
            return False
        return all(
            variant.assignment is not None and variant.assignment.experiment in taken
            for variant in variants.variants
            if variant.weight
        )
    return False
