"""One canary as one server sees it: what the registry says of it, what was counted here, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_server.canary.counts import ANSWERS, HARMED, ArmCounts
from inference_server.canary.guardrails import Breach, breach
from inference_server.canary.layer import ARMS, CANARY, CONTROL, FULL_PERCENT
from inference_server.canary.record import CanaryRecord
from inference_server.control.messages import CanaryCounted
from inference_server.core.canary_status import CanaryState, CanaryStatus
from inference_server.supervisor.canary_moves import Move


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """An end that this server has decided, and the registry may not know of yet."""

    move: Move
    reason: str


class Trial:
    """A canary on this server."""

    def __init__(self, record: CanaryRecord) -> None:
        self.record = record
        self.percent = 0.0
        """Share of the users that this server gives it."""
        self.problem = ""
        """Why it does not go on here; empty: it does."""
        self.withdrawal: Withdrawal | None = None
        self.is_told = False
        """Whether the withdrawal has been told about."""
        self._arms = {arm: ArmCounts() for arm in ARMS}
        self._all_answers = 0
        self._num_harmed = 0
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._step_at = 0.0
        self._answers_before_step = 0

    def give(self, percent: float) -> bool:
        """Sets the share of the users. Returns whether that changes anything."""
        if percent == self.percent:
            return False
        self.percent = percent
        now = time.monotonic()
        self._step_at, self._answers_before_step = now, self._arms[CANARY][ANSWERS]
        if percent and self._began_at is None:
            self._began_at = now
        if not percent and self._began_at is not None and self._ended_at is None:
            self._ended_at = now
        elif percent:
            self._ended_at = None
        return True

    def withdraw(self, withdrawal: Withdrawal, num_harmed: int = 0) -> None:
        """Ends it on this server, at once."""
        self.withdrawal = withdrawal
        self._num_harmed = num_harmed
        self.give(0.0)

    def count(self, message: CanaryCounted) -> None:
        """Adds what a worker has counted."""
        # At 100 percent nobody is left to compare clicks with, and other hours have other clicks.
        compares = 0.0 < self.percent < FULL_PERCENT
        for arm, counts in self._arms.items():
            counts.add(message.counts[arm], compares=compares)
        self._all_answers += message.all_answers

    def broken(self, counts: Mapping[str, Any]) -> Breach | None:
        """The guardrail that is broken after a worker's last `counts`; None: none is, or it has ended."""
        if not self.percent or not self.record.is_running or self.withdrawal is not None:
            return None
        harmed, answers = counts["control_in_run"]
        return breach(
            self._arms[CANARY], self._arms[CONTROL], longest_run=counts["run"], control_in_run=(harmed, answers)
        )

    @property
    def step_is_passed(self) -> bool:
        """Whether the step that it is in has lasted long enough, and had enough answers."""
        plan, step = self.record.plan, self.record.step
        answers = self._arms[CANARY][ANSWERS] - self._answers_before_step
        return (
            self.percent == plan.steps[step]
            and time.monotonic() - self._step_at >= plan.step_seconds
            and answers >= plan.step_answers
        )

    @property
    def status(self) -> CanaryStatus:
        """For people."""
        record, canary = self.record, self._arms[CANARY]
        ended_at = time.monotonic() if self._ended_at is None else self._ended_at
        state = record.state if self.withdrawal is None else CanaryState.TAKEN_BACK
        return CanaryStatus(
            experiment=record.experiment,
            registry_version=record.version.number,
            model_version=record.version.model_version,
            state=state,
            reason=record.reason if self.withdrawal is None else self.withdrawal.reason,
            problem=self.problem if state is CanaryState.RUNNING else "",
            started_at_seconds=record.started_at_seconds,
            started_by=record.started_by,
            steps=record.plan.steps,
            step=record.step + 1,
            percent=self.percent,
            answers=canary[ANSWERS],
            control_answers=self._arms[CONTROL][ANSWERS],
            harmed=max(canary[HARMED], min(self._num_harmed, canary[ANSWERS])),
            all_answers=self._all_answers,
            seconds=0.0 if self._began_at is None else ended_at - self._began_at,
        )
