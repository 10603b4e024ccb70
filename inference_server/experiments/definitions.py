"""Definitions of feature flags, of the shape in which Unleash's client API returns them and the YAML file has them.

Numbers of `parameters` are texts there, and numbers in a file that a person writes; both are read. What takes no part
in a decision (`description`, `project`, `stale`, ...) is read and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem.contract.experiments import DEFAULT_STICKINESS, Operator

STRATEGIES: Final = ("default", "flexibleRollout", "userWithId")
"""The strategies that can be decided by a request alone."""
NOT_USED: Final = frozenset(
    {
        *("title", "sortOrder", "weightType", "type", "project", "description", "stale", "impressionData"),
        *("createdAt", "lastSeenAt", "archived", "favorite", "strategyVariants"),
    }
)
"""Keys that Unleash writes and that decide nothing."""

_Name = Annotated[str, Field(min_length=1, max_length=100)]


class Definition(BaseModel):
    """Base of all parts. Unknown keys are kept in `model_extra`: an error in a file, and news of a newer Unleash."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class ArmDefinition(BaseModel):
    """The content of a variant's payload."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    arm: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""
    model: str = ""
    scenario: str = ""


class PayloadDefinition(Definition):
    """A variant's payload."""

    type: Literal["json"]
    value: str | Mapping[str, Any]


class OverrideDefinition(Definition):
    """Requests that have a variant whatever the hash says."""

    context_name: _Name = Field(alias="contextName")
    values: Sequence[str]


class VariantDefinition(Definition):
    """A variant."""

    name: _Name
    weight: Annotated[int, Field(ge=0, le=1_000_000)]
    stickiness: str = DEFAULT_STICKINESS
    payload: PayloadDefinition | None = None
    overrides: Sequence[OverrideDefinition] = ()


class ConstraintDefinition(Definition):
    """A constraint of a strategy or segment."""

    context_name: _Name = Field(alias="contextName")
    operator: str
    values: Sequence[str] = ()
    value: str | int | float = ""
    inverted: bool = False
    case_insensitive: bool = Field(default=False, alias="caseInsensitive")

    @property
    def known_operator(self) -> Operator | None:
        """None: an operator that is not decided here."""
        return Operator(self.operator) if self.operator in set(Operator) else None


class StrategyDefinition(Definition):
    """A strategy."""

    name: str = "flexibleRollout"
    parameters: Mapping[str, str | int | float] = {}
    constraints: Sequence[ConstraintDefinition] = ()
    segments: Sequence[int] = ()
    variants: Sequence[VariantDefinition] = ()
    disabled: bool = False


class DependencyDefinition(Definition):
    """A parent flag."""

    feature: _Name
    enabled: bool = True
    variants: Sequence[str] = ()


class FlagDefinition(Definition):
    """A flag."""

    name: _Name
    enabled: bool = True
    strategies: Sequence[StrategyDefinition] | None = None
    variants: Sequence[VariantDefinition] = ()
    dependencies: Sequence[DependencyDefinition] = ()


class SegmentDefinition(Definition):
    """Constraints that several strategies name by a number."""

    id: int
    constraints: Sequence[ConstraintDefinition] = ()


class Document(Definition):
    """All flags."""

    features: Sequence[FlagDefinition] = ()
    segments: Sequence[SegmentDefinition] = ()
