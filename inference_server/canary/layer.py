"""Who is in a canary: a layer of the table of experiments, with a hash of its own.

The canary takes the users at one end of the hash's scale, so that a larger share only ever adds users to it. Its
control group are those at the other end, as many up to half of all users: both are alike, and what differs is the
model.
"""

from __future__ import annotations

from typing import Final

from inference_server.core.query import Query
from tandem.contract.experiments import DEFAULT_STICKINESS, Assignment, Caller, Flag, Variant, Variants

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
