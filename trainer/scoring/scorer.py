"""Scorers, the subject of an evaluation: a baseline, two towers, or a bundle as it is served."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Scorer(Protocol):
    """Scores every item for users of a data set."""

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 rows of users -> (n, items) float32, a new array that the caller may overwrite; higher is better.

        An item that the scorer does not know is -inf.
        """
        ...


@runtime_checkable
class RatingPredictor(Protocol):
    """A scorer that also predicts the rating that a user would give, on the scale of the source."""

    def ratings(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 rows of users and (n,) int64 rows of items, pair by pair -> (n,) float32, never NaN."""
        ...
