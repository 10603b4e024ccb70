"""The rule by which events become choices: what enters a user's history, and which of several events stands there.

A user views an item, puts it into the cart and buys it: three events of one pair of user and item, and one entry of
the history. The strongest event stands for the pair, with its type and its time; among equally strong ones the
earliest. What the others say is counted: how many events of each type the pair has, and when the last one was. The
entry stands at the time of its own event, so a history that is cut at any moment says nothing of what came later.

The trainer's cleaning applies the rule to files and writes it into the bundle's manifest; feature_sync applies the
champion's rule to events. A test has both make the same histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tandem.contract import names

if TYPE_CHECKING:
    from tandem.contract.manifest import Manifest


@dataclass(frozen=True)
class EventRule:
    """The rule of one bundle."""

    min_rating: float | None = None
    """Ratings below it are seen, and no choices; None: every rating is a choice."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """Strength of each type of `names.EVENT_TYPES`; empty, as in bundles before format 6: the first event of a pair
    stands for it, whatever comes later, and no other is counted."""

    @classmethod
    def of(cls, manifest: Manifest) -> EventRule:
        """The rule by which a bundle's model was trained."""
        return cls(manifest.min_rating, manifest.event_weights)

    @cached_property
    def strengths(self) -> npt.NDArray[np.float64] | None:
        """(7,) float64, the strength of each event code, 0 for padding; None: the first event stands."""
        if not self.event_weights:
            return None
        return np.array([0.0, *(self.event_weights[name] for name in names.EVENT_TYPES)])
