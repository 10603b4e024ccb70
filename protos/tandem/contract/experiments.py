"""Experiments: which arm answers a user.

A layer is one feature flag. Its variants are the arms of the experiments that exclude each other, so that a user is in
one of them at most; users of different layers mix. A table is made anew when a flag changes, and never changed itself:
the requests of a worker read it without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The arm of an experiment that a request is in."""

    experiment: str
    arm: str
    model: str = ""
    """Registry alias or version that answers; empty: the server's own."""
    scenario: str = ""
    """Scenario whose policy answers; empty: the request's."""
    exposed: bool = True
    """Whether the arm answered. False: it could not, and the control arm did, so that the answer counts for neither."""


@dataclass(frozen=True, kw_only=True)
class ExperimentTable:
    """All experiments that are in force together."""

    fingerprint: str = ""
    """Identifies the content, hexadecimal; empty: there are no experiments."""

    def assign(self, user_id: str, context: Mapping[str, str], scenario: str = "") -> tuple[Assignment, ...]:  # noqa: ARG002
        """The arms of a request, in the order of the layers; empty outside of every experiment.

        `user_id` is empty for an anonymous caller; `scenario` is the scenario that the request names.
        """
        return ()


NO_EXPERIMENTS = ExperimentTable()
"""Nobody is in an experiment."""
