"""What is said of a canary in GetServingStatus, in the metrics and to the operator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CanaryState(StrEnum):
    """Where a canary stands."""

    RUNNING = "running"
    PROMOTED = "promoted"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, kw_only=True)
class CanaryStatus:
    """The newest canary of the server's alias; counts are this server's own."""

    experiment: str = ""
    """Its name in answers; empty: there has been none."""
    registry_version: str = ""
    model_version: str = ""
    state: str = ""
    """A CanaryState."""
    reason: str = ""
    """Why it was taken back, or who promoted it; empty while it runs."""
    problem: str = ""
    """Why it does not go on although it runs; empty: it does."""
    started_at_seconds: float = 0.0
    """Seconds since 1970."""
    started_by: str = ""
    steps: tuple[float, ...] = ()
    """Shares of the users in percent."""
    step: int = 0
    """The step that it is in, from 1; 0: it has not begun."""
    percent: float = 0.0
    """Share of the users that this server gives it now."""
    answers: int = 0
    """Answers to users of the canary."""
    control_answers: int = 0
    harmed: int = 0
    """Answers to users of the canary that were errors, degraded, short, or bad in the sense of the broken guardrail."""
    all_answers: int = 0
    """Answers of this server while it gave the canary a share."""
    seconds: float = 0.0
    """From the first answer that could be the canary's to its end, or to now."""

    @property
    def harmed_share(self) -> float:
        """Harmed answers as a share of all answers of this server meanwhile; 0 without any."""
        return self.harmed / self.all_answers if self.all_answers else 0.0
