"""What the serving engine measured when it answered held-out users with a bundle, alone or beside another one.

`python -m inference_server check BUNDLE --held-out FILE --output RESULT` writes it and the trainer's gate reads it:
the two programs never import each other, and the gate shall judge what is served, not what training believes of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

NOT_SHOWN: Final = -1
"""The rank of a held-out item that the answer does not hold."""

_SERVED: Final = "served"
_REASON_KIND: Final = "reason_kind"
_REASON: Final = "reason"


@dataclass(frozen=True, kw_only=True)
class ServedBundle:
    """How one bundle answered the held-out users."""

    model_version: str
    num_items: int
    """Items of its catalogue."""
    ranks: npt.NDArray[np.int64]
    """(users,) int64, 0-based place of each user's held-out item in the answer, or NOT_SHOWN."""
    popularity_ranks: npt.NDArray[np.int64]
    """(users,) int64, the same for a list of the bundle's most popular items that the user has not seen."""
    num_recommended_items: int
    """Different items in all answers together."""
    novelty_bits: float
    """Mean over the recommended items of log2(users of the training data / users who chose the item)."""
    latency_ms: Mapping[str, float]
    """Time to an answer in the process that asked, by percentile: "p50", "p90", "p99"."""
    degraded_answers: Mapping[str, int]
    """Answers by reason of degradation; empty where none was degraded."""
    answers_by_source: Mapping[str, int]
    """Answers by how they were made, as the API's `RecommendationSource` names it."""
    exact_overlap: float | None
    """Share of the golden answers that exact search finds; None where the golden queries were not asked."""
    recall_at_100: float | None
    """Recall of the index as served, over the golden queries; None where they were not asked."""

    @property
    def coverage(self) -> float:
        """Share of the catalogue in at least one answer, 0 to 1."""
        return self.num_recommended_items / self.num_items

    @property
    def num_degraded_answers(self) -> int:
        """Reasons for degradation over all answers; an answer with two of them counts twice."""
        return sum(self.degraded_answers.values())


@dataclass(frozen=True, kw_only=True)
class Served:
    """The bundle that was checked, and the one it was compared with, on the same users in the same run."""

    num_shown: int
    """Items asked for; metrics are cut off there."""
    candidate: ServedBundle
    against: ServedBundle | None = None
    against_problem: str = ""
    """Why the other bundle was not asked although it was named; empty: it was asked, or none was named."""

    @property
    def num_users(self) -> int:
        """Held-out users who were asked for."""
        return len(self.candidate.ranks)


@dataclass(frozen=True)
class Refused:
    """A bundle that may not serve."""

    reason_kind: str
    """In the words that label the server's metric: "corrupt", "incompatible", "golden_queries", ..."""
    reason: str


def ndcg(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """NDCG of each user with one held-out item: (users,) int64 -> (users,) float64, 0 where it was not shown."""
    gains: npt.NDArray[np.float64] = np.where(ranks == NOT_SHOWN, 0.0, 1.0 / np.log2(np.maximum(ranks, 0) + 2.0))
    return gains


def recall(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Recall of each user with one held-out item, which is the hit rate: (users,) float64."""
    return np.where(ranks == NOT_SHOWN, 0.0, 1.0)


def reciprocal_rank(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """1 / place of the held-out item, 0 where it was not shown: (users,) float64."""
    reciprocal: npt.NDArray[np.float64] = np.where(ranks == NOT_SHOWN, 0.0, 1.0 / (np.maximum(ranks, 0) + 1.0))
    return reciprocal


def served_to_dict(served: Served) -> dict[str, object]:
    """For the check's JSON, under its other keys."""
    return {_SERVED: json.loads(json.dumps(asdict(served), default=lambda ranks: ranks.tolist()))}


def refused_to_dict(refused: Refused) -> dict[str, object]:
    """The check's JSON of a bundle that may not serve."""
    return {_REASON_KIND: refused.reason_kind, _REASON: refused.reason}


def parse_check_result(text: str) -> Served | Refused:
    """What the check wrote. Raises ValueError for text that is not such a result."""
    raw = json.loads(text)
    try:
        if _REASON_KIND in raw:
            return Refused(raw[_REASON_KIND], raw[_REASON])
        fields = raw[_SERVED]
        against = None if fields["against"] is None else _bundle(fields["against"])
        return Served(**{**fields, "candidate": _bundle(fields["candidate"]), "against": against})
    except (KeyError, TypeError) as error:
        raise ValueError(f"no result of a check on held-out users: {error!r}") from error


def _bundle(raw: Mapping[str, Any]) -> ServedBundle:
    ranks = {name: np.array(raw[name], dtype=np.int64) for name in ("ranks", "popularity_ranks")}
    return ServedBundle(**{**raw, **ranks})
