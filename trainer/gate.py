"""The gate: whether a new model may take the champion's place.

It has to beat popularity on validation, and must not be worse than the champion beyond noise. The champion is measured
on today's last interactions, which neither model has seen: a champion's own training data reach into today's validation
items, so that comparing the two there would favour the old model.
See docs/decisions/0003-gate-on-last-interactions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.evaluation.metrics import PerUser, bootstrap_mean

GATE_METRIC = "ndcg@10"


@dataclass(frozen=True)
class GateDecision:
    """The gate's answer with every reason, for the run's record."""

    promoted: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"promoted: {'yes' if self.promoted else 'no'}", *self.reasons])


@dataclass(frozen=True, kw_only=True)
class ChampionComparison:
    """The same metric of the same users under both models, (users,) float64 each."""

    champion_version: str
    candidate: PerUser
    champion: PerUser


def decide(
    *, validation: PerUser, validation_popularity: PerUser, comparison: ChampionComparison | None
) -> GateDecision:
    """Decides on GATE_METRIC of each user, (users,) float64. `comparison` is None while there is no champion."""
    reasons = []
    over_popularity = bootstrap_mean(validation - validation_popularity)
    beats_popularity = over_popularity.mean > 0
    reasons.append(f"{'passed' if beats_popularity else 'FAILED'}: {GATE_METRIC} over popularity {over_popularity}")
    not_worse = True
    if comparison is not None:
        over_champion = bootstrap_mean(comparison.candidate - comparison.champion)
        not_worse = over_champion.high >= 0
        reasons.append(
            f"{'passed' if not_worse else 'FAILED'}: {GATE_METRIC} over champion {comparison.champion_version} "
            f"{over_champion}"
        )
    return GateDecision(beats_popularity and not_worse, tuple(reasons))
