"""The result of a bundle's check. The supervisor reads it without importing an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The figures of a bundle that passed its check."""

    model_version: str
    num_items: int
    num_golden_queries: int
    exact_overlap: float
    """Share of the golden answers that exact search over the item vectors finds for the user tower's vectors."""
    golden_overlap: float
    """Share of the golden answers that the index finds when it searches all lists."""
    recall_at_nprobe: float
    """Share of the exact 100 nearest items that the index finds as it is served, mean over the golden queries."""
    overlap_with_previous: float | None = None
    """Share of the 10 items the bundle recommends to its held-out users that the bundle before recommends too, mean
    over the users. None: there was no previous bundle, or it cannot be opened."""
