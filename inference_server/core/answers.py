"""What callers get, whatever protocol they came over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_server.core.degradation import Degraded, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why one item is recommended."""

    source: str
    because_item_ids: tuple[str, ...]
    """Items of the user's history that are nearest to this one, nearest first."""
    score_parts: Mapping[str, float]
    title: str
    propensity: float = 1.0
    """Probability with which the policy showed the item at its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the caller gets. `item_ids`, `scores` and, where asked for, `reasons` go together, best first."""

    request_id: str
    item_ids: list[str]
    scores: list[float]
    reasons: list[Reason] | None
    model_version: str
    variant: str
    source: Source
    degraded_reasons: tuple[Degraded, ...]
    next_page_token: str = ""
    """Empty: there is no further page."""
    propensities: list[float] | None = None
    """For the impression log; None: 1 everywhere."""
    sources: Sequence[str] = ()
    """For the impression log: the candidate source of each item; empty where nobody keeps one."""
