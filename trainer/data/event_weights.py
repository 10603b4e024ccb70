"""Weights of event types, as evidence that the user likes the item: a section of a data set's description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tandem.contract.names import EVENT_TYPES


class EventWeights(BaseModel):
    """Weight of each event type, written with every interaction as `weight`, for methods that learn from weights;
    `interactions.weight` multiplies it.

    Of several interactions of a user with an item the one of the type with the highest weight stands for all, with its
    time, and among equally strong ones the first: a later one may belong to the test. The others are counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    impression: float = Field(default=0.1, ge=0.0)
    """The item was shown, which by itself is hardly any evidence."""
    click: float = Field(default=1.0, ge=0.0)
    """The unit of the other weights."""
    add_to_cart: float = Field(default=3.0, ge=0.0)
    """Raise it if carts are rarely abandoned."""
    purchase: float = Field(default=5.0, ge=0.0)
    """Raise it if few clicks lead to a purchase."""
    rating: float = Field(default=1.0, ge=0.0)
    """Any rating that is not below `min_rating`."""
    dwell: float = Field(default=1.0, ge=0.0)
    """Time spent with the item."""


assert tuple(EventWeights.model_fields) == EVENT_TYPES
