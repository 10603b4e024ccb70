"""The experiments in force in one worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_server.core.table_status import TableStatus
from inference_server.experiments.table import make_table
from tandem.contract.experiments import NO_EXPERIMENTS, ExperimentTable


class ExperimentSlot:
    """One reference to the table for requests that are admitted now, which the supervisor changes."""

    def __init__(self) -> None:
        self.current: ExperimentTable = NO_EXPERIMENTS
        self.status = TableStatus()

    def follow(self, document: Mapping[str, Any] | None, status: Mapping[str, Any]) -> None:
        """Takes what the supervisor has checked: definitions (None: as before), and the fields of a TableStatus."""
        if document is not None:
            self.current = make_table(document, locate=lambda _, __: "")
        self.status = TableStatus(**{**status, "experiments": tuple(status["experiments"])})
