"""What was measured of one scorer on one split: everything that a table, a test or a later comparison needs.

The ranks are kept, not the metrics: all accuracy metrics follow from them, in a file thousands of times smaller than
the scores, and an old run can be asked for a metric or a segment that nobody thought of then.
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
    """Of the scorer."""
    protocol: str
    """FULL_RANKING or SAMPLED."""
    split: str
    """"validation" or "test"."""
    question: str
    """Digest of what was asked; evaluations can be compared where it is equal."""
    ranks: npt.NDArray[np.int64]
    """(targets,) int64, the 0-based rank of each target among its user's candidates."""
    target_offsets: npt.NDArray[np.int64]
    """(users + 1,) int64, as in `EvalSplit`."""
    num_known_events: npt.NDArray[np.int64]
    """(users,) int64."""
    head_targets: npt.NDArray[np.bool_]
    """(targets,) bool, whether a target is a head item."""
    list_metrics: Mapping[str, PerUser]
    """novelty@10 in bits and, where there is content, diversity@10; empty where there is no list."""
    totals: Mapping[str, float]
    """Figures that no user has alone: coverage@10 and gini@10, rmse and mae of a scorer that predicts ratings."""

    @property
    def num_users(self) -> int:
        """Users that were evaluated."""
        return len(self.num_known_events)

    @cached_property
    def per_user(self) -> Mapping[str, PerUser]:
        """All accuracy metrics and the metrics of lists, by name."""
        return {**ranking_metrics(self.ranks, self.target_offsets), **self.list_metrics}

    def means(self) -> dict[str, float]:
        """Every figure by its name: means over users, and the totals."""
        return {**mean_metrics(self.per_user), **self.totals}

    def segments(self) -> dict[str, dict[str, PerUser]]:
        """Accuracy metrics of the users of each segment, by segment; segments without a user are left out.

        Segments of users part the users. In a segment of items only targets of that kind count, over the users who have
        one; what else the user chose stays among the candidates.
        """
        accuracy = {name: values for name, values in self.per_user.items() if name not in self.list_metrics}
        segment_of_user = user_segments(self.num_known_events)
        found = {}
        for place, name in enumerate(USER_SEGMENTS):
            found[name] = {metric: values[segment_of_user == place] for metric, values in accuracy.items()}
        user_of_target = np.repeat(np.arange(self.num_users), np.diff(self.target_offsets))
        for name, wanted in ((HEAD_ITEMS, self.head_targets), (TAIL_ITEMS, ~self.head_targets)):
            counts = np.bincount(user_of_target[wanted], minlength=self.num_users)
            offsets = np.concatenate([[0], np.cumsum(counts[counts > 0])])
            found[name] = ranking_metrics(self.ranks[wanted], offsets)
        return {name: metrics for name, metrics in found.items() if len(next(iter(metrics.values())))}
