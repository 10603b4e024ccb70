"""Answers to callers, independent of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_server.core.degradation import Degraded, Source
from inference_server.core.request_warnings import RequestWarning
from tandem.contract.experiments import Assignment


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why one item is recommended."""

    source: str
    because_item_ids: tuple[str, ...]
    """Items of the user's history that are nearest to this item, nearest first."""
    score_parts: Mapping[str, float]
    title: str
    propensity: float = 1.0
    """Probability with which the policy showed the item at its position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer. `item_ids`, `scores` and, if requested, `reasons` are parallel, best item first."""

    request_id: str
    item_ids: list[str]
    scores: list[float]
    reasons: list[Reason] | None
    model_version: str
    variant: str
    source: Source
    degraded_reasons: tuple[Degraded, ...]
    assignments: tuple[Assignment, ...] = ()
    """The arms of experiments that the request is in."""
    warnings: tuple[RequestWarning, ...] = ()
    """What is most likely wrong with the request."""
    next_page_token: str = ""
    """Empty: there is no further page."""
    propensities: list[float] | None = None
    """For the impression log, parallel to `item_ids`; None: 1 for every item."""
    num_candidates: int = 0
    """For the impression log: number of candidates that exploration drew from; 0: the policy did not explore."""
    ranks: Sequence[int] = ()
    """For the impression log: the place of each item among those candidates; empty if the policy did not explore."""
    sources: Sequence[str] = ()
    """For the impression log: the candidate source of each item; empty when there is no log."""
