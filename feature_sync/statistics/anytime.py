"""An interval that is valid at every look: the normal mixture (Robbins 1970; asymptotic: Waudby-Smith et al. 2024).

An estimate of n observations with standard error s is compared with 0 by a likelihood ratio, averaged over effects
drawn from a normal distribution whose width says for which n the interval is narrowest. Under no effect that average is
a martingale, so that the probability that it *ever* exceeds 1 / alpha is at most alpha: stopping early, going on, or
looking every hour changes nothing. The price at the best n is about 1.5 times the width of the usual interval.

n is `effective_users`; `rho` comes from the plan alone, never from the data.
"""

from __future__ import annotations

import math

from scipy.special import lambertw


def effective_users(control_users: float, arm_users: float) -> float:
    """Observations that a difference of two means is worth: half the users of one arm where both are alike."""
    return control_users * arm_users / (control_users + arm_users)


def best_rho(users: float, alpha: float) -> float:
    """The mixture's parameter for which the interval is narrowest at that many effective users."""
    return float(-users / (1 + lambertw(-(alpha**2) / math.e, -1).real))


def boundary(users: float, rho: float, alpha: float) -> float:
    """Half of the interval's width, in standard errors."""
    return math.sqrt((users + rho) / users * math.log((users + rho) / (rho * alpha**2)))


def p_value(z: float, users: float, rho: float) -> float:
    """The smallest alpha whose interval excludes 0; `z` is the estimate in standard errors."""
    return min(1.0, math.exp(0.5 * math.log1p(users / rho) - z**2 * users / (2 * (users + rho))))
