"""What happens to the users of a canary and of its control group: counted by each worker, added up by the supervisor.

Users are counted in groups, by a hash of their ids: the requests of one user are alike, so the groups tell how much
chance there is in a difference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from inference_server.canary.layer import ARMS, CANARY
from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded
from tandem.contract.experiments import Assignment, normalised_hash

NUM_GROUPS: Final = 64
SLOW_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds by which answers are counted. Nobody notices less than the first."""
MIN_GROUPS: Final = 5
"""Groups of users that harmed answers must come from to mean anything: one user's requests may all be odd."""

ANSWERS: Final = "answers"
FAILED: Final = "failed"
DEGRADED: Final = "degraded"
SHORT: Final = "short"
HARMED: Final = "harmed"
CLICKS: Final = "clicks"
COMPARED: Final = "compared"
_BY_GROUP: Final = (ANSWERS, FAILED, DEGRADED, SHORT, HARMED, CLICKS)
_SECONDS: Final = "seconds"
_NOT_FINITE: Final = "not_finite"

_GROUP_SEED: Final = 20_240_229
"""Of the hash that groups users: independent of the one that assigns them."""
_OF_THE_MODEL: Final = frozenset(
    {
        Degraded.RANKER_SKIPPED,
        Degraded.RANKER_FAILED,
        Degraded.SOURCES_SKIPPED,
        Degraded.SOURCE_FAILED,
        Degraded.DEADLINE,
        Degraded.USER_VECTOR_NOT_FINITE,
        Degraded.SCORES_NOT_FINITE,
    }
)
"""The reasons that a model may be the cause of. The store degrades the answers of every model alike."""
_NO_NUMBER: Final = frozenset({Degraded.USER_VECTOR_NOT_FINITE, Degraded.SCORES_NOT_FINITE})


class ArmCounts:
    """The counts of one arm."""

    def __init__(self) -> None:
        self.by_group: dict[str, list[int]] = {name: [0] * NUM_GROUPS for name in (*_BY_GROUP, COMPARED)}
        """By what was counted: (NUM_GROUPS,). `answers` counts all of the arm's requests; `failed` those that got an
        error or, from the arm's model, no answer; `harmed` those that got an error, a degraded or a short list;
        `compared` those that `clicks` belong to."""
        self.seconds = [0] * (len(SLOW_BOUNDS) + 1)
        """Answers by the time that they took, in the buckets of SLOW_BOUNDS."""
        self.not_finite = 0
        """Times that the model made NaN or infinity."""

    def __getitem__(self, name: str) -> int:
        return sum(self.by_group[name])

    def slower_than(self, bound: int) -> int:
        """Answers that took longer than SLOW_BOUNDS[bound]."""
        return sum(self.seconds[bound + 1 :])

    @property
    def timed(self) -> int:
        """Answers whose time was taken."""
        return sum(self.seconds)

    def to_plain(self) -> Mapping[str, Sequence[int]]:
        """As JSON can carry it."""
        by_group = {name: self.by_group[name] for name in _BY_GROUP}
        return {**by_group, _SECONDS: self.seconds, _NOT_FINITE: [self.not_finite]}

    def add(self, plain: Mapping[str, Sequence[int]], *, compares: bool = True) -> None:
        """Adds what `to_plain` returned. `compares`: whether there was a control group, with whose clicks its own may
        be compared."""
        for name in _BY_GROUP:
            if name != CLICKS or compares:
                self.by_group[name] = _sums(self.by_group[name], plain[name])
        if compares:
            self.by_group[COMPARED] = _sums(self.by_group[COMPARED], plain[ANSWERS])
        self.seconds = _sums(self.seconds, plain[_SECONDS])
        self.not_finite += plain[_NOT_FINITE][0]


class CanaryCounts:
    """What one worker has counted since its last report. On the event loop's thread only."""

    def __init__(self) -> None:
        self.experiment: str = ""
        """The canary that is counted; empty: none."""
        self.is_urgent = False
        """Whether something was counted that the supervisor should hear of at once."""
        self._forget()

    def watch(self, experiment: str) -> None:
        """Counts for a canary from now on; empty: for none."""
        if experiment != self.experiment:
            self.experiment = experiment
            self._forget()

    def answered(self, answer: Answer, identifier: str, *, num_items: int, seconds: float) -> None:
        """Counts an answer. `identifier` is the value that the canary sticks to."""
        assignment = self._assignment(answer.assignments)
        if assignment is None:
            return
        is_available = Degraded.ARM_UNAVAILABLE not in answer.degraded_reasons
        if not assignment.exposed and is_available:
            return  # a later page of the list of another model
        arm, group = self._arms[assignment.arm], self._group(identifier)
        reasons = _OF_THE_MODEL.intersection(answer.degraded_reasons)
        is_short = len(answer.item_ids) < num_items
        self._is_empty = False
        arm.by_group[ANSWERS][group] += 1
        arm.by_group[FAILED][group] += not assignment.exposed
        if assignment.exposed:
            arm.by_group[DEGRADED][group] += bool(reasons)
            arm.by_group[SHORT][group] += is_short
            arm.seconds[bisect_left(SLOW_BOUNDS, seconds)] += 1
            if not _NO_NUMBER.isdisjoint(reasons):
                self.not_finite(assignment.arm)
            self._count_run(assignment.arm, group, harmed=bool(reasons) or is_short)

    def failed(self, assignments: Iterable[Assignment], identifier: str) -> None:
        """Counts a request that got an error instead of an answer."""
        assignment = self._assignment(assignments)
        if assignment is None:
            return
        arm, group = self._arms[assignment.arm], self._group(identifier)
        arm.by_group[ANSWERS][group] += 1
        arm.by_group[FAILED][group] += 1
        self._count_run(assignment.arm, group, harmed=True)

    def clicked(self, assignments: Iterable[Assignment], identifier: str) -> None:
        """Counts a click of a user on an answer."""
        assignment = self._assignment(assignments)
        if assignment is not None:
            self._arms[assignment.arm].by_group[CLICKS][self._group(identifier)] += 1
            self._is_empty = False

    def not_finite(self, arm: str = CANARY) -> None:
        """Counts that an arm's model made NaN or infinity."""
        self._arms[arm].not_finite += 1
        self._is_empty = False
        self.is_urgent |= arm == CANARY

    def take(self) -> Mapping[str, Any] | None:
        """The counts since the last call, as `ArmCounts.add` reads them, the longest `run` of harmed answers of the
        canary, and the control group's harmed answers and all of its answers meanwhile; None: nothing was counted."""
        if self._is_empty:
            return None
        meanwhile = {"run": self._longest_run, "control_in_run": self._control_in_longest_run}
        counts = {**meanwhile, **{name: arm.to_plain() for name, arm in self._arms.items()}}
        self._new_counts()
        return counts

    def _forget(self) -> None:
        self._run = 0
        self._run_groups: set[int] = set()
        self._control_in_run = [0, 0]
        self._new_counts()

    def _new_counts(self) -> None:
        self._arms = {arm: ArmCounts() for arm in ARMS}
        self._longest_run = 0
        self._control_in_longest_run = [0, 0]
        self._is_empty = True
        self.is_urgent = False

    def _assignment(self, assignments: Iterable[Assignment]) -> Assignment | None:
        if self.experiment:
            for assignment in assignments:
                if assignment.experiment == self.experiment:
                    return assignment
        return None

    def _group(self, identifier: str) -> int:
        return normalised_hash(self.experiment, identifier, NUM_GROUPS, seed=_GROUP_SEED) - 1

    def _count_run(self, arm: str, group: int, *, harmed: bool) -> None:
        self._is_empty = False
        self._arms[arm].by_group[HARMED][group] += harmed
        if arm != CANARY:
            self._control_in_run[0] += harmed
            self._control_in_run[1] += 1
            return
        if not harmed:
            self._run = 0
            self._run_groups.clear()
            self._control_in_run = [0, 0]
            return
        self._run += 1
        self._run_groups.add(group)
        if len(self._run_groups) >= MIN_GROUPS:
            if self._run > self._longest_run:
                self._longest_run, self._control_in_longest_run = self._run, list(self._control_in_run)
            self.is_urgent = True


def _sums(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(left, right, strict=True)]
