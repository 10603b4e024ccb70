"""Intervals that are valid at every look: stopping early, going on, or looking every second changes nothing.

`boundary` is the normal mixture (Robbins 1970; asymptotic: Waudby-Smith et al. 2024), for an estimate of n observations
with standard error s. It is compared with 0 by a likelihood ratio, averaged over effects drawn from a normal
distribution whose width says for which n the interval is narrowest. Under no effect that average is a martingale, so
that the probability that it *ever* exceeds 1 / alpha is at most alpha. The price at the best n is about 1.5 times the
width of the usual interval. n is `effective_observations`; `rho` comes from a plan alone, never from the data.

`share_interval` is the same for a share of independent yes and no (Robbins 1970; Howard et al. 2021): the likelihood
ratio is averaged over all shares alike. It is exact, for one observation too, and for a share of 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

_NEWTON_STEPS: Final = 50
_HALVINGS: Final = 50


def effective_observations(control: float, arm: float) -> float:
    """Observations that a difference of two means is worth: half of those of one arm where both have as many."""
    return control * arm / (control + arm)


def best_rho(observations: float, alpha: float) -> float:
    """The mixture's parameter for which `boundary` is narrowest at that many effective observations."""
    # -1 / W(-alpha**2 / e) on the lower branch of Lambert's function: u of u - log(u) = 1 - 2 log(alpha), u > 1.
    right = 1.0 - 2.0 * math.log(alpha)
    u = right + math.log(right)
    for _ in range(_NEWTON_STEPS):
        step = (u - math.log(u) - right) / (1.0 - 1.0 / u)
        u -= step
        if abs(step) < 1e-14 * u:
            break
    return observations / (u - 1.0)


def boundary(observations: float, rho: float, alpha: float) -> float:
    """Half of the interval's width, in standard errors."""
    return math.sqrt((observations + rho) / observations * math.log((observations + rho) / (rho * alpha**2)))


def p_value(z: float, observations: float, rho: float) -> float:
    """The smallest alpha whose interval excludes 0; `z` is the estimate in standard errors."""
    return min(1.0, math.exp(0.5 * math.log1p(observations / rho) - z**2 * observations / (2 * (observations + rho))))


def share_interval(count: float, observations: float, alpha: float) -> tuple[float, float]:
    """The shares that `count` of `observations` do not exclude at `alpha`: lowest and highest.

    Both may be less than was counted, where observations are worth less than independent ones.
    """
    if observations <= 0.0:
        return 0.0, 1.0
    rest, seen = observations - count, count / observations
    mixture = math.lgamma(count + 1.0) + math.lgamma(rest + 1.0) - math.lgamma(observations + 2.0)

    def excluded(share: float) -> bool:
        return mixture - _log_power(share, count) - _log_power(1.0 - share, rest) >= -math.log(alpha)

    return _edge(excluded, 0.0, seen), _edge(excluded, 1.0, seen)


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where the interval ends between its inside and the end of the scale."""
    if not excluded(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2.0
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_power(base: float, exponent: float) -> float:
    if exponent == 0.0:
        return 0.0
    return exponent * math.log(base) if base > 0.0 else -math.inf
