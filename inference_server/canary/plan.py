"""What an operator decides about a canary: the steps of its share, and what each needs before the next."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from inference_server.canary.layer import FULL_PERCENT
from inference_server.core.errors import CanaryInvalid

DEFAULT_STEPS: Final = (1.0, 5.0, 25.0, 100.0)
DEFAULT_STEP_SECONDS: Final = 600.0
DEFAULT_STEP_ANSWERS: Final = 500
_LEAST_PERCENT: Final = 0.01
_MOST_STEPS: Final = 20
_MOST_SECONDS: Final = 30 * 86_400.0
_MOST_ANSWERS: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The course of one canary."""

    steps: tuple[float, ...] = DEFAULT_STEPS
    """Shares of the users in percent, ascending, the last one 100."""
    step_seconds: float = DEFAULT_STEP_SECONDS
    """Shortest time of a step."""
    step_answers: int = DEFAULT_STEP_ANSWERS
    """Fewest answers by the canary in a step, on the server that moves it on."""

    def __post_init__(self) -> None:
        """Raises CanaryInvalid, which names the field and what is allowed."""
        if not 1 <= len(self.steps) <= _MOST_STEPS:
            raise CanaryInvalid(f"steps: there must be 1 to {_MOST_STEPS} of them (got {len(self.steps)})")
        for step in self.steps:
            if not _LEAST_PERCENT <= step <= FULL_PERCENT:
                raise CanaryInvalid(f"steps: {step:g} is no share of {_LEAST_PERCENT:g} to {FULL_PERCENT:g} percent")
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise CanaryInvalid(f"steps: shares must ascend (got {self.shown_steps})")
        if self.steps[-1] != FULL_PERCENT:
            raise CanaryInvalid(f"steps: the last share must be 100 percent (got {self.shown_steps})")
        if not 0.0 <= self.step_seconds <= _MOST_SECONDS:
            raise CanaryInvalid(f"step-seconds: must be 0 to {_MOST_SECONDS:.0f} (got {self.step_seconds:g})")
        if not 1 <= self.step_answers <= _MOST_ANSWERS:
            raise CanaryInvalid(f"step-answers: must be 1 to {_MOST_ANSWERS} (got {self.step_answers})")

    @property
    def shown_steps(self) -> str:
        """The steps as `parsed_steps` reads them."""
        return ",".join(f"{step:g}" for step in self.steps)

    def to_json(self) -> str:
        """As a tag of the registry holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a tag, or an operator's command. Raises CanaryInvalid."""
        try:
            fields: Any = json.loads(text)
            return cls(
                steps=tuple(float(step) for step in fields["steps"]),
                step_seconds=float(fields["step_seconds"]),
                step_answers=int(fields["step_answers"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CanaryInvalid(f"the plan of the canary cannot be read: {error!r}") from error


def parsed_steps(text: str) -> tuple[float, ...]:
    """The shares in a text such as "1,5,25,100". Raises CanaryInvalid."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CanaryInvalid(f"steps: must be percents with commas between them, as 1,5,25,100 (got {text!r})") from None
