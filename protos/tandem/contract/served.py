"""Measurements of the serving engine answering held-out users with one bundle, or with two for comparison.

`python -m inference_server check BUNDLE --held-out FILE --output RESULT` writes them and the trainer's gate reads them:
the two programs never import each other, and the gate must judge what is served, not what training expects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

NOT_SHOWN: Final = -1
"""The rank of a held-out item that is not in the answer."""

_SERVED: Final = "served"
_REASON_KIND: Final = "reason_kind"
_REASON: Final = "reason"


@dataclass(frozen=True, kw_only=True)
class ServedBundle:
    """How one bundle answered the held-out users."""

    model_version: str
    num_items: int
    """Size of its catalogue."""
    ranks: npt.NDArray[np.int64]
    """(users,) int64, 0-based rank of each user's held-out item in the answer, or NOT_SHOWN."""
    popularity_ranks: npt.NDArray[np.int64]
    """(users,) int64, the same for the list of the most popular items that the user has not seen."""
    num_recommended_items: int
    """Number of distinct items over all answers."""
    novelty_bits: float
    """Mean over the recommended items of log2(users in the training data / users who chose the item)."""
    latency_ms: Mapping[str, float]
    """Time to an answer, measured by the caller, by percentile: "p50", "p90", "p99"."""
    degraded_answers: Mapping[str, int]
    """Number of answers by reason of degradation; empty if none was degraded."""
    answers_by_source: Mapping[str, int]
    """Number of answers by the name of the API's `RecommendationSource`."""
    exact_overlap: float | None
    """Share of the golden answers that exact search finds; None if the golden queries were not run."""
    recall_at_100: float | None
    """Recall of the index as served, over the golden queries; None if they were not run."""

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is in at least one answer, 0 to 1."""
        return self.num_recommended_items / self.num_items

    @property
    def num_degraded_answers(self) -> int:
        """Sum of the reasons over all answers; an answer with two reasons counts twice."""
        return sum(self.degraded_answers.values())


@dataclass(frozen=True, kw_only=True)
class Served:
    """The checked bundle and the bundle it was compared with, on the same users in the same run."""

    num_shown: int
    """Items per answer: the cut-off of the metrics."""
    candidate: ServedBundle
    against: ServedBundle | None = None
    against_problem: str = ""
    """Why the bundle to compare with was not run; empty if it was, or if there is none."""

    @property
    def num_users(self) -> int:
        """Number of held-out users."""
        return len(self.candidate.ranks)


@dataclass(frozen=True)
class Refused:
    """A bundle that may not serve."""

    reason_kind: str
    """Label of the server's metric: "corrupt", "incompatible", "golden_queries", ..."""
    reason: str


def ndcg(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """NDCG of each user with one held-out item: (users,) int64 -> (users,) float64, 0 if it was not shown."""
    gains: npt.NDArray[np.float64] = np.where(ranks == NOT_SHOWN, 0.0, 1.0 / np.log2(np.maximum(ranks, 0) + 2.0))
    return gains


def recall(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Recall of each user with one held-out item, which is the hit rate: (users,) float64."""
    return np.where(ranks == NOT_SHOWN, 0.0, 1.0)


def reciprocal_rank(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """1 / (1 + rank) of each held-out item, 0 if it was not shown: (users,) float64."""
    reciprocal: npt.NDArray[np.float64] = np.where(ranks == NOT_SHOWN, 0.0, 1.0 / (np.maximum(ranks, 0) + 1.0))
    return reciprocal


def served_to_dict(served: Served) -> dict[str, object]:
    """The part of the check's JSON that describes held-out users."""
    return {_SERVED: json.loads(json.dumps(asdict(served), default=lambda ranks: ranks.tolist()))}


def refused_to_dict(refused: Refused) -> dict[str, object]:
    """The check's JSON for a bundle that may not serve."""
    return {_REASON_KIND: refused.reason_kind, _REASON: refused.reason}


def parse_check_result(text: str) -> Served | Refused:
    """Parses the JSON that the check wrote. Raises ValueError if it is no such result."""
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
