"""Measurements of a scorer on a split: everything that a table, a test or a later comparison needs.

The ranks are kept, not the metrics: all accuracy metrics follow from them, in a file thousands of times smaller than
the scores, and metrics and segments that are defined later can still be computed for old runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.evaluation.metrics import PerUser, mean_metrics, ranking_metrics
from trainer.evaluation.segments import HEAD_ITEMS, TAIL_ITEMS, USER_SEGMENTS, user_segments

FULL_RANKING: Final = "full ranking"
SAMPLED: Final = "1+99"
"""One target among 99 sampled items. Its figures are many times those of full ranking and never stand without this
label."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One scorer, one split, one protocol."""

    name: str
    """Name of the scorer."""
    protocol: str
    """FULL_RANKING or SAMPLED."""
    split: str
    """"validation" or "test"."""
    question: str
    """Digest of items, users, known interactions and targets. Evaluations are comparable if their digests are equal."""
    ranks: npt.NDArray[np.int64]
    """(targets,) int64, the 0-based rank of each target among its user's candidates."""
    target_offsets: npt.NDArray[np.int64]
    """(users + 1,) int64, as in `EvalSplit`."""
    num_known_events: npt.NDArray[np.int64]
    """(users,) int64, known events of each user."""
    head_targets: npt.NDArray[np.bool_]
    """(targets,) bool, whether a target is a head item."""
    list_metrics: Mapping[str, PerUser]
    """novelty@10 in bits and, with content vectors, diversity@10; empty under a protocol without lists."""
    totals: Mapping[str, float]
    """Figures over all users: coverage@10 and gini@10; rmse and mae of a scorer that predicts ratings."""

    @property
    def num_users(self) -> int:
        """Number of evaluated users."""
        return len(self.num_known_events)

    @cached_property
    def per_user(self) -> Mapping[str, PerUser]:
        """All accuracy metrics and list metrics, by name."""
        return {**ranking_metrics(self.ranks, self.target_offsets), **self.list_metrics}

    def means(self) -> dict[str, float]:
        """Every figure by name: means over users, and the totals."""
        return {**mean_metrics(self.per_user), **self.totals}

    def segments(self) -> dict[str, dict[str, PerUser]]:
        """Accuracy metrics per user, by segment; segments without users are left out.

        The user segments partition the users. An item segment counts only the targets in it, over the users with at
        least one such target; the user's other targets stay candidates.
        """
        accuracy = {name: values for name, values in self.per_user.items() if name not in self.list_metrics}
        segment_of_user = user_segments(self.num_known_events)
        found = {}
        for segment, name in enumerate(USER_SEGMENTS):
            found[name] = {metric: values[segment_of_user == segment] for metric, values in accuracy.items()}
        user_of_target = np.repeat(np.arange(self.num_users), np.diff(self.target_offsets))
        for name, in_segment in ((HEAD_ITEMS, self.head_targets), (TAIL_ITEMS, ~self.head_targets)):
            counts = np.bincount(user_of_target[in_segment], minlength=self.num_users)
            offsets = np.concatenate([[0], np.cumsum(counts[counts > 0])])
            found[name] = ranking_metrics(self.ranks[in_segment], offsets)
        return {name: metrics for name, metrics in found.items() if len(next(iter(metrics.values())))}
