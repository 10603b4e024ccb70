"""The ladder: the stages that a request skips when time is short, in one fixed order.

    FULL -> NO_RANKER -> NO_EXTRA_SOURCES -> FROM_MEMORY

A rung is chosen once, when the user's state is known, by the recent cost of every stage that is still ahead. A slow
ranker is skipped before it makes a request late, and comes back when it is fast again; so is a slow user tower, for
users whose stored vector is not up to date.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

SECONDS_TO_ANSWER: Final = 0.002
"""Reserved for making and sending an answer from memory."""
_HEADROOM: Final = 2.0
"""A stage runs only if the time left is at least this multiple of its recent mean cost: it shares its core."""
_EWMA_WEIGHT: Final = 0.1
"""Weight of the newest batch in the moving average of a stage's cost."""
_SKIPPED_DECAY: Final = 0.99
"""Factor on a stage's cost each time it is skipped. A stage that never runs is never measured: without this, a stage
that was slow once would be skipped for ever."""

FILTER: Final = "filter"
ENCODE_USER: Final = "encode_user"
RETRIEVE: Final = "retrieve"
SOURCES: Final = "sources"
RANK: Final = "rank"
SELECT: Final = "select"
ANSWER: Final = "answer"
"""The stages that cost time, as `Ladder.seconds` names them."""
_EVERY_ANSWER_NEEDS: Final = (FILTER, SELECT, ANSWER)


class Rung(IntEnum):
    """How much of the pipeline a request gets; higher is less."""

    FULL = 0
    NO_RANKER = 1
    NO_EXTRA_SOURCES = 2
    FROM_MEMORY = 3


class Ladder:
    """Chooses rungs. One per worker."""

    def __init__(
        self,
        *,
        encode_user: float = 0.0,
        retrieve: float = 0.001,
        sources: float = 0.0005,
        rank: float = 0.001,
    ) -> None:
        """Takes the initial costs of the stages, in seconds per batch."""
        self.seconds = {
            FILTER: 0.0,
            ENCODE_USER: encode_user,
            RETRIEVE: retrieve,
            SOURCES: sources,
            RANK: rank,
            SELECT: 0.0,
            ANSWER: 0.0,
        }
        """Recent mean cost of each stage, in seconds per batch."""

    def rung(self, seconds_left: float, *, encodes: bool = False) -> Rung:
        """The fullest rung that fits into the time left.

        `encodes`: the user has no up-to-date vector, so the user tower must run. The mean cost of a stage that does not
        fit decays, see `_SKIPPED_DECAY`.
        """
        seconds = self.seconds
        spare = seconds_left - SECONDS_TO_ANSWER
        spare -= _HEADROOM * (seconds[FILTER] + seconds[SELECT] + seconds[ANSWER])
        if spare < 0.0:
            for stage in _EVERY_ANSWER_NEEDS:
                seconds[stage] *= _SKIPPED_DECAY
            return Rung.FROM_MEMORY
        if encodes:
            spare -= _HEADROOM * seconds[ENCODE_USER]
            if spare < 0.0:
                seconds[ENCODE_USER] *= _SKIPPED_DECAY
                return Rung.FROM_MEMORY
        spare -= _HEADROOM * seconds[RETRIEVE]
        if spare < 0.0:
            seconds[RETRIEVE] *= _SKIPPED_DECAY
            return Rung.FROM_MEMORY
        spare -= _HEADROOM * seconds[SOURCES]
        if spare < 0.0:
            seconds[SOURCES] *= _SKIPPED_DECAY
            return Rung.NO_EXTRA_SOURCES
        if spare < _HEADROOM * seconds[RANK]:
            seconds[RANK] *= _SKIPPED_DECAY
            return Rung.NO_RANKER
        return Rung.FULL

    def observe(self, stage: str, seconds: float) -> None:
        """Updates a stage's mean cost with its cost for one batch, in seconds."""
        self.seconds[stage] += _EWMA_WEIGHT * (seconds - self.seconds[stage])
