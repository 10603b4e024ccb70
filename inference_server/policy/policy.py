"""A policy: an operator's decisions about the answers of one scenario. `policy_file` reads it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inference_server.core.query import AttributePredicate, Clause

_Name = Annotated[str, Field(min_length=1)]


class StrictConfig(BaseModel):
    """Base of all parts of a policy."""

    # Strict: "yes" is not a number and 5 is not a category. An unquoted word that YAML converts is then an error, not a
    # surprise.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class AttributePredicateConfig(StrictConfig):
    """A condition on one attribute of an item; every field that is set must hold."""

    name: _Name
    """Name of the attribute."""

    any_of: tuple[str, ...] = ()
    """Values of which the attribute must have one; empty: any value."""

    none_of: tuple[str, ...] = ()
    """Values that the attribute must not have."""

    min: float | None = None
    """Smallest number that the attribute may be; null: no limit."""

    max: float | None = None
    """Largest number that the attribute may be; null: no limit."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.any_of and not self.none_of and self.min is None and self.max is None:
            raise ValueError("needs any_of, none_of, min or max")
        _check_range(self.min, self.max)
        return self


class Boost(StrictConfig):
    """Moves items up or down. Names a category, or an attribute with a condition."""

    category: str = ""
    """Category that an item must have."""

    attribute: str = ""
    """Attribute that an item must have, with `any_of`, `min` and `max`; every field that is set must hold."""

    any_of: tuple[str, ...] = ()
    """Values of which the attribute must have one; empty: any value."""

    min: float | None = None
    """Smallest number that the attribute may be; null: no limit."""

    max: float | None = None
    """Largest number that the attribute may be; null: no limit."""

    add: float = Field(ge=-100.0, le=100.0)
    """Added to the item's score, in standard deviations of the scores of the request's candidates; a negative value
    moves items down."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        has_condition = bool(self.any_of) or self.min is not None or self.max is not None
        if bool(self.category) == bool(self.attribute):
            raise ValueError("needs either category or attribute")
        if self.category and has_condition:
            raise ValueError("any_of, min and max are conditions on an attribute, not on a category")
        if self.attribute and not has_condition:
            raise ValueError("an attribute needs any_of, min or max")
        _check_range(self.min, self.max)
        return self


_Value = Annotated[float, Field(ge=0.0, le=1e6)]


class Objectives(StrictConfig):
    """What a choice of an item is worth, by what users who chose it went on to do."""

    click: _Value = 0.0
    """Value of a click or a view."""

    add_to_cart: _Value = 0.0
    """Value of putting the item into the cart."""

    purchase: _Value = 0.0
    """Value of a purchase."""

    rating: _Value = 0.0
    """Value of a rating that is not below the data's least."""

    dwell: _Value = 0.0
    """Value of time spent with the item, however long."""

    @cached_property
    def by_type(self) -> Mapping[str, float]:
        """The values above 0 by event type."""
        return {name: value for name, value in self.model_dump().items() if value > 0.0}

    @model_validator(mode="after")
    def _values_something(self) -> Self:
        if not self.by_type:
            raise ValueError("needs a value above 0")
        return self


class Policy(StrictConfig):
    """How one scenario is answered."""

    sources: Mapping[str, int] = {}
    """Maximum number of candidates from each source, by name; 0: the source is off. A source that is missing here has
    its default number. `Choices` validates the names."""

    ranker: str = "auto"
    """Name of the registered ranker that orders the candidates; auto: the first registered ranker that the bundle has.
    With none, or where the bundle does not have the ranker, the two-tower score orders them. `Choices` validates the
    name."""

    content_weight: float | None = Field(default=None, ge=0.0, le=1.0)
    """Weight of content in the blend, 0 to 1; null: the bundle's own."""

    boosts: tuple[Boost, ...] = ()
    """Boosts of items; an item that matches several boosts gets their sum."""

    objectives: Objectives | None = None
    """Values of the events that a choice leads to. The logarithm of an item's expected value, relative to that of an
    average choice, is added to its score, in standard deviations of the scores of the request's candidates; null: every
    choice is worth the same."""

    category_caps: dict[_Name, Annotated[int, Field(ge=1)]] = {}
    """Maximum number of items of each category in one answer."""

    max_per_category: int = Field(default=0, ge=0)
    """Maximum number of items of one category in one answer, for categories that `category_caps` does not name; 0: no
    limit."""

    diversity: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of diversity among the items if the request does not set it: from 0, the order by score, to 1."""

    exploration: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of positions that are filled with a random candidate, so that training data covers more than the model's
    own favourites."""

    exclude_categories: tuple[_Name, ...] = ()
    """Items with any of these categories are never shown."""

    include_categories: tuple[_Name, ...] = ()
    """Only items with at least one of these categories are shown; empty: any. Applies in addition to the request's
    filter."""

    attributes: tuple[AttributePredicateConfig, ...] = ()
    """Conditions on attributes that an item must meet to be shown."""

    exclude_seen: bool | None = None
    """Whether items that the user has interacted with are excluded; null: the request decides."""

    @cached_property
    def rules(self) -> Clause:
        """The business rules as conditions on items."""
        return Clause(
            self.include_categories,
            self.exclude_categories,
            tuple(
                AttributePredicate(
                    name=config.name, any_of=config.any_of, none_of=config.none_of, min=config.min, max=config.max
                )
                for config in self.attributes
            ),
        )

    @cached_property
    def is_plain(self) -> bool:
        """Whether the best candidates are shown in the order of their scores."""
        return not (self.max_per_category or self.category_caps or self.exploration)

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.include_categories and set(self.include_categories) <= set(self.exclude_categories):
            raise ValueError("every category of include_categories is in exclude_categories: no item could be shown")
        return self


def _check_range(least: float | None, largest: float | None) -> None:
    if least is not None and largest is not None and least > largest:
        raise ValueError(f"min {least:g} is above max {largest:g}")
