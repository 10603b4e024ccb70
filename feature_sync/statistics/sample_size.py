"""How many users a verdict needs: by the power of a z-test, for one look at the end and for any look.

tea-tasting gives the same number for one look (a test compares them) and searches for it, which takes longer than all
the rest of an analysis. Looks before the last one add a little power, which is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtri

from tandem.contract.anytime import boundary, effective_observations

_ROUNDS: Final = 50
_CLOSE: Final = 1e-3
"""Relative change of the number between two rounds at which it is found."""


@dataclass(frozen=True, kw_only=True)
class RequiredUsers:
    """Users of control and arm together."""

    anytime: int
    fixed: int
    """For one look at the end."""


def required_users(
    variance: float, effect: float, *, alpha: float, power: float, arm_to_control: float, rho: float
) -> RequiredUsers | None:
    """Users that find an absolute difference of `effect` with probability `power` at level `alpha`, where one user's
    value varies by `variance`; `arm_to_control` is the ratio of users. None: there is no such number."""
    if not (effect > 0 and variance > 0 and math.isfinite(effect) and math.isfinite(variance)):
        return None
    needed = variance / effect / effect * (1 + arm_to_control) ** 2 / arm_to_control
    share = arm_to_control / (1 + arm_to_control)
    quantile = float(ndtri(power))
    fixed = users = needed * (float(ndtri(1 - alpha / 2)) + quantile) ** 2
    for _ in range(_ROUNDS):
        width = boundary(effective_observations(users * (1 - share), users * share), rho, alpha)
        # The geometric mean: the boundary falls with the number of users, so that plain rounds would swing.
        before, users = users, math.sqrt(users * needed) * (width + quantile)
        if abs(users - before) <= _CLOSE * before:
            break
    return RequiredUsers(anytime=math.ceil(users), fixed=math.ceil(fixed)) if math.isfinite(users) else None
