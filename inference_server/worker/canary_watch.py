"""What a worker does about a canary: assigns its users, counts what they got, and tells the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from inference_server.canary.counts import CanaryCounts
from inference_server.canary.layer import canary_layer
from inference_server.control.messages import CanaryChanged, CanaryCounted, ControlChannel
from inference_server.core.canary_status import CanaryStatus
from inference_server.experiments.slot import ExperimentSlot
from inference_server.telemetry.statistics import Statistics
from tandem.contract.names import CLICK
from tandem.contract.streams import Event

_REPORT_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 0.05
"""How often it is looked whether something is urgent: so many answers a canary may harm after that."""


class CanaryWatch:
    """The canary of one worker."""

    def __init__(self, experiments: ExperimentSlot, statistics: Statistics, channel: ControlChannel) -> None:
        self.counts: Final = CanaryCounts()
        self._experiments = experiments
        self._statistics = statistics
        self._channel = channel
        self._begins = asyncio.Event()
        self._model = ""
        self._answers_before = 0
        self._not_finite_before = 0

    def follow(self, message: CanaryChanged) -> None:
        """Takes over what the supervisor has decided."""
        if message.experiment != self.counts.experiment:
            self.counts.watch(message.experiment)
            self._model = message.model
            self._not_finite_before = self._statistics.ranker_not_finite[message.model]
        layer = canary_layer(message.experiment, model=message.model, percent=message.percent)
        self._experiments.put_on_trial(layer if message.experiment else None)
        self._statistics.canary = CanaryStatus(**{**message.status, "steps": tuple(message.status["steps"])})
        if message.percent:
            if not self._begins.is_set():
                self._answers_before = self._statistics.answers_by_source.total()
            self._begins.set()
        else:
            self._begins.clear()

    def recorded(self, events: Sequence[Event]) -> None:
        """Counts the clicks among events that users have recorded."""
        if not self.counts.experiment:
            return
        for event in events:
            if event.type == CLICK and event.request_id:
                # The request's context is not known here, so these are the users that their ids alone assign.
                assignments = self._experiments.current.assign(event.user_id, {})
                self.counts.clicked(assignments, event.user_id)

    async def run(self) -> None:
        """Reports the counts while there is a canary, until it is cancelled."""
        while True:
            await self._begins.wait()
            for _ in range(round(_REPORT_SECONDS / _LOOK_SECONDS)):
                await asyncio.sleep(_LOOK_SECONDS)
                self._look_at_ranker()
                if self.counts.is_urgent:
                    break
            self._report()

    def _look_at_ranker(self) -> None:
        not_finite = self._statistics.ranker_not_finite[self._model]
        for _ in range(not_finite - self._not_finite_before):
            self.counts.not_finite()
        self._not_finite_before = not_finite

    def _report(self) -> None:
        answers = self._statistics.answers_by_source.total()
        if (counts := self.counts.take()) is None:
            return
        self._channel.post(
            CanaryCounted(experiment=self.counts.experiment, all_answers=answers - self._answers_before, counts=counts)
        )
        self._answers_before = answers
