"""How much an event says that someone likes the item: a section of a data set's description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tandem.contract.names import EVENT_TYPES


class EventWeights(BaseModel):
    """Written beside every interaction as `weight`, for methods that learn from weighted ones. Drops nothing.

    Of a repeated (user, item) the first interaction is kept, and its weight alone: a later one may lie in the test.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    impression: float = Field(default=0.1, ge=0.0)
    """The item was shown; on its own that says next to nothing."""
    click: float = Field(default=1.0, ge=0.0)
    """What the others are measured against."""
    add_to_cart: float = Field(default=3.0, ge=0.0)
    """Raise it where carts are rarely abandoned."""
    purchase: float = Field(default=5.0, ge=0.0)
    """Raise it where few clicks end in a purchase."""
    rating: float = Field(default=1.0, ge=0.0)
    """A rating of any height that `min_rating` lets through."""
    dwell: float = Field(default=1.0, ge=0.0)
    """Time spent with the item."""


assert tuple(EventWeights.model_fields) == EVENT_TYPES
