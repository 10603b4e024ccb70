"""A canary as the registry knows it: tags of its version, which all servers of an alias read.

Each fact has a tag of its own: one server may move a canary on in the moment in which another takes it back, and then
it is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from inference_server.canary.plan import Plan
from inference_server.core.canary_status import CanaryState
from inference_server.core.errors import CanaryInvalid
from tandem.ops.model_registry import RegisteredVersion

_ALIAS_SUFFIX: Final = "-canary"
_TAG: Final = "tandem.canary."
STATE_TAG: Final = f"{_TAG}state"
STEP_TAG: Final = f"{_TAG}step"
REASON_TAG: Final = f"{_TAG}reason"
_EXPERIMENT_TAG: Final = f"{_TAG}experiment"
_PLAN_TAG: Final = f"{_TAG}plan"
_AGAINST_TAG: Final = f"{_TAG}against"
_STARTED_AT_TAG: Final = f"{_TAG}started_at"
_ALIAS_TAG: Final = f"{_TAG}alias"
_STARTED_BY_TAG: Final = f"{_TAG}started_by"
_NUM_TAG: Final = f"{_TAG}number"


def canary_alias(alias: str) -> str:
    """The alias that names the newest canary of the servers of an alias."""
    return f"{alias}{_ALIAS_SUFFIX}"


@dataclass(frozen=True, kw_only=True)
class CanaryRecord:
    """One canary."""

    version: RegisteredVersion
    number: int
    """How many canaries this version has been, with this one."""
    plan: Plan
    alias: str
    """The champion's alias whose users it takes."""
    against: str
    """Number of the champion that it is compared with."""
    started_at_seconds: float
    """Seconds since 1970."""
    started_by: str
    state: CanaryState = CanaryState.RUNNING
    step: int = 0
    """Index of the step of the plan that it is in."""
    reason: str = ""
    """Why it has ended."""

    @property
    def experiment(self) -> str:
        """Its name in answers, impressions and reports; a second attempt mixes the users anew."""
        name = f"canary-{self.version.number}"
        return name if self.number == 1 else f"{name}.{self.number}"

    @property
    def is_running(self) -> bool:
        """Whether it takes traffic."""
        return self.state is CanaryState.RUNNING

    def tags(self) -> Mapping[str, str]:
        """The tags of a new canary."""
        return {
            _EXPERIMENT_TAG: self.experiment,
            _NUM_TAG: str(self.number),
            _PLAN_TAG: self.plan.to_json(),
            _ALIAS_TAG: self.alias,
            _AGAINST_TAG: self.against,
            _STARTED_AT_TAG: repr(self.started_at_seconds),
            _STARTED_BY_TAG: self.started_by,
            STEP_TAG: str(self.step),
            REASON_TAG: self.reason,
            STATE_TAG: self.state,
        }

    @classmethod
    def of(cls, version: RegisteredVersion) -> Self | None:
        """The newest canary of a version; None: it has been none. Raises CanaryInvalid for tags that cannot be read."""
        tags = version.tags
        if not tags.get(STATE_TAG):
            return None
        try:
            plan = Plan.from_json(tags[_PLAN_TAG])
            step = int(tags[STEP_TAG])
            if not 0 <= step < len(plan.steps):
                raise ValueError(f"step {step}")
            return cls(
                version=version,
                number=int(tags[_NUM_TAG]),
                plan=plan,
                alias=tags[_ALIAS_TAG],
                against=tags[_AGAINST_TAG],
                started_at_seconds=float(tags[_STARTED_AT_TAG]),
                started_by=tags.get(_STARTED_BY_TAG, ""),
                state=CanaryState(tags[STATE_TAG]),
                step=step,
                reason=tags.get(REASON_TAG, ""),
            )
        except (KeyError, ValueError, CanaryInvalid) as error:
            raise CanaryInvalid(f"the tags {_TAG}* of version {version.number} cannot be read: {error!r}") from error
