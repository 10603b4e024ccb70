"""Candidates of a batch, as `retrieve` and `fallback` propose them and `rank` orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference_server.degradation import Source
from inference_server.engine.search import Allowed
from inference_server.serving_model import ServingModel
from inference_server.stages.encode_user import Encoded, User


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table of candidates that one source filled."""

    source: str
    """As `Reason.source` names it."""
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Items that may be recommended to users with a vector; each is allowed and comes once for a user."""

    encoded: Encoded
    allowed: Sequence[Allowed]
    rows: npt.NDArray[np.int64]
    """(users, candidates) int64; any row where `collaborative` is -inf."""
    collaborative: npt.NDArray[np.float32]
    """(users, candidates) float32 inner products of the two towers, -inf where there is no candidate."""
    columns: Sequence[Columns]
    users: Sequence[User]
    """Those of `encoded`, with reasons that came up since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """Candidates with the scores that order them."""

    model: ServingModel
    users: Sequence[User]
    source: Source
    rows: npt.NDArray[np.int64]
    """(users, candidates) int64; any row where `scores` is -inf."""
    scores: npt.NDArray[np.float32]
    """(users, candidates) float32, -inf where there is no candidate."""
    columns: Sequence[Columns]
    is_ordered: bool = False
    """Whether the order of the columns is the order to show; else the scores decide."""
    parts: tuple[tuple[str, npt.NDArray[np.float32]], ...] = ()
    """What the scores were made of, by name; (users, candidates) float32 each."""
