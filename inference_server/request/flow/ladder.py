"""The ladder: what a request goes without when time is short, in one fixed order.

    FULL -> NO_RANKER -> NO_EXTRA_SOURCES -> FROM_MEMORY

A rung is chosen once, when the user's state is known, by what the stages above it have cost lately: a slow ranker is
dropped before it makes anyone late, and comes back when it is fast again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

SECONDS_TO_ANSWER: Final = 0.002
"""Kept back for an answer from memory and its way onto the wire."""
_SAFETY: Final = 2.0
"""A stage is begun with so many times the time it has taken lately: it shares its core."""
_MEMORY: Final = 0.1
"""Weight of the newest batch in the moving average of a stage's cost."""

_FORGETTING: Final = 0.99
"""What is never run is never measured: without this, a stage that was slow once would be skipped for ever."""


class Rung(IntEnum):
    """How much of the pipeline a request gets; higher is less."""

    FULL = 0
    NO_RANKER = 1
    NO_EXTRA_SOURCES = 2
    FROM_MEMORY = 3


class Ladder:
    """Chooses rungs. One for a worker."""

    def __init__(
        self, *, retrieve_seconds: float = 0.001, sources_seconds: float = 0.0005, rank_seconds: float = 0.001
    ):
        """Begins with these costs of the stages, of one batch each."""
        self.encode_seconds = 0.0
        self.retrieve_seconds = retrieve_seconds
        self.sources_seconds = sources_seconds
        self.rank_seconds = rank_seconds

    def rung(self, seconds_left: float) -> Rung:
        """What fits into the time that is left. What does not fit is thought a little cheaper the next time."""
        spare = seconds_left - SECONDS_TO_ANSWER - _SAFETY * self.retrieve_seconds
        if spare < 0.0:
            self.retrieve_seconds *= _FORGETTING
            return Rung.FROM_MEMORY
        spare -= _SAFETY * self.sources_seconds
        if spare < 0.0:
            self.sources_seconds *= _FORGETTING
            return Rung.NO_EXTRA_SOURCES
        if spare < _SAFETY * self.rank_seconds:
            self.rank_seconds *= _FORGETTING
            return Rung.NO_RANKER
        return Rung.FULL

    def observe(
        self,
        *,
        encode: float | None = None,
        retrieve: float | None = None,
        sources: float | None = None,
        rank: float | None = None,
    ) -> None:
        """Takes in what a batch's stages took, in seconds."""
        if encode is not None:
            self.encode_seconds += _MEMORY * (encode - self.encode_seconds)
        if retrieve is not None:
            self.retrieve_seconds += _MEMORY * (retrieve - self.retrieve_seconds)
        if sources is not None:
            self.sources_seconds += _MEMORY * (sources - self.sources_seconds)
        if rank is not None:
            self.rank_seconds += _MEMORY * (rank - self.rank_seconds)
