"""The experiments in force in one worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_server.core.table_status import TableStatus
from inference_server.experiments.table import make_table
from tandem.contract.experiments import NO_EXPERIMENTS, ExperimentTable, Flag


class ExperimentSlot:
    """One reference to the table for requests that are admitted now, which the supervisor changes."""

    def __init__(self) -> None:
        self.current: ExperimentTable = NO_EXPERIMENTS
        self.status = TableStatus()
        self._canary: Flag | None = None

    def follow(self, document: Mapping[str, Any] | None, status: Mapping[str, Any]) -> None:
        """Takes what the supervisor has checked: definitions (None: as before), and the fields of a TableStatus."""
        if document is not None:
            self.current = make_table(document, locate=lambda _, __: "").with_canary(self._canary)
        self.status = TableStatus(**{**status, "experiments": tuple(status["experiments"])})

    def put_on_trial(self, canary: Flag | None) -> None:
        """Sets the layer of the canary; None: there is none."""
        self._canary = canary
        self.current = self.current.with_canary(canary)
