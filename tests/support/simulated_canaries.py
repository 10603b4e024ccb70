"""Canaries without servers: users who differ in how much they ask, how often their answers are harmed, and click."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference_server.canary.counts import (
    ANSWERS,
    CLICKS,
    COMPARED,
    DEGRADED,
    FAILED,
    HARMED,
    NUM_GROUPS,
    SHORT,
    ArmCounts,
)
from inference_server.canary.guardrails import Breach, breach
from inference_server.canary.layer import ARMS, CANARY

_USUAL_SECONDS, _SLOW_SECONDS = 3, 5
"""Buckets of SLOW_BOUNDS of usual answers, and of slow ones."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A canary, and how much worse than its control group it is."""

    num_users: int = 400
    """Of each arm."""
    looks: int = 60
    answers_per_look: int = 25
    """Of each arm."""
    harmed: float = 0.03
    """Share of harmed answers, of most users; those of one user in fifty are harmed in seven of ten cases."""
    clicks: float = 0.1
    """Clicks per answer, in the mean over users, who vary by a gamma distribution."""
    slow: float = 0.02
    more_harmed: float = 0.0
    more_slow: float = 0.0
    clicks_kept: float = 1.0

    def run(self, generator: np.random.Generator) -> tuple[Breach | None, int]:
        """The first guardrail that is broken, None if none ever is, and the canary's answers until then."""
        counts = {arm: ArmCounts() for arm in ARMS}
        users = {arm: self._users(generator) for arm in ARMS}
        run = 0
        for look in range(1, self.looks + 1):
            longest = 0
            for arm in ARMS:
                harmed = self._look(generator, counts[arm], users[arm], is_canary=arm == CANARY)
                if arm == CANARY:
                    for is_harmed in harmed:
                        run = run + 1 if is_harmed else 0
                        longest = max(longest, run)
            broken = breach(counts[ARMS[0]], counts[ARMS[1]], longest_run=longest)
            if broken is not None:
                return broken, look * self.answers_per_look
        return None, self.looks * self.answers_per_look

    def _users(self, generator: np.random.Generator) -> tuple[npt.NDArray[np.float64], ...]:
        weights = generator.lognormal(0.0, 1.0, self.num_users)
        groups = generator.integers(0, NUM_GROUPS, self.num_users)
        harmed = np.where(generator.random(self.num_users) < 0.02, 0.7, self.harmed)
        clicks = np.clip(generator.gamma(2.0, self.clicks / 2.0, self.num_users), 0.0, 1.0)
        return weights / weights.sum(), groups, harmed, clicks

    def _look(
        self,
        generator: np.random.Generator,
        counts: ArmCounts,
        users: tuple[npt.NDArray[np.float64], ...],
        *,
        is_canary: bool,
    ) -> list[bool]:
        weights, groups, harmed, clicks = users
        size = self.answers_per_look
        chosen = generator.choice(self.num_users, size, p=weights)
        share = np.minimum(1.0, harmed[chosen] + (self.more_harmed if is_canary else 0.0))
        is_harmed = generator.random(size) < share
        rate = clicks[chosen] * (self.clicks_kept if is_canary else 1.0)
        counted = {
            ANSWERS: np.ones(size),
            COMPARED: np.ones(size),
            DEGRADED: is_harmed,
            HARMED: is_harmed,
            SHORT: generator.random(size) < share,
            FAILED: generator.random(size) < share / 3,
            CLICKS: generator.random(size) < rate,
        }
        for name, values in counted.items():
            added = np.bincount(groups[chosen], weights=values, minlength=NUM_GROUPS).astype(int).tolist()
            counts.by_group[name] = [one + other for one, other in zip(counts.by_group[name], added, strict=True)]
        num_slow = int((generator.random(size) < self.slow + (self.more_slow if is_canary else 0.0)).sum())
        counts.seconds[_SLOW_SECONDS] += num_slow
        counts.seconds[_USUAL_SECONDS] += size - num_slow
        return is_harmed.tolist()


def runs(simulated: Simulated, times: int, *, seed: int = 1) -> Iterator[tuple[Breach | None, int]]:
    """The ends of that many canaries."""
    generator = np.random.default_rng(seed)
    for _ in range(times):
        yield simulated.run(generator)
