"""The interface of every ranker, and its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.catalogue import Catalogue
from tandem.contract.bundle import Bundle

Scores = npt.NDArray[np.float32]

CONTENT: Final = "content"
"""`RankerBatch.content`."""
ITEM_ITEM: Final = "item_item"
"""`RankerBatch.item_item`."""
SEQUENTIAL: Final = "sequential"
"""`RankerBatch.sequential`."""
USER_INDEX: Final = "user_index"
"""`RankerBatch.user_index`."""


@dataclass(frozen=True, slots=True)
class UnknownParts:
    """Candidates that the bundle does not hold. Only the two towers have scores of them, so the means over all users
    and items stand in for the other scores."""

    cells: npt.NDArray[np.bool_]
    """(users, candidates) bool."""
    comparable: npt.NDArray[np.bool_]
    """(users, candidates) bool: known candidates that, like the unknown ones, the two towers proposed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerBatch:
    """Users and their candidates, for a ranker. A cell without a candidate holds any valid row; its score is ignored.

    `user_index`, `content`, `item_item` and `sequential` are filled only for a ranker whose `reads` names them.
    """

    user_vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    user_index: npt.NDArray[np.int64] | None = None
    """(users,) int64 as `features.encode_index` makes it; None where it is not read or the bundle has no user ids."""
    rows: npt.NDArray[np.int64]
    """(users, candidates) int64."""
    collaborative: npt.NDArray[np.float32]
    """(users, candidates) float32, inner products of the two towers."""
    content: npt.NDArray[np.float32]
    """(users, candidates) float32, inner products of content profile and content vector; 0 where they are not read or
    the bundle has no content."""
    item_item: npt.NDArray[np.float32] | None = None
    """(users, candidates) float32, scores of the item-item source; None where they are not read or the bundle has no
    such source."""
    sequential: npt.NDArray[np.float32] | None = None
    """(users, candidates) float32, scores of the sequential source, as above."""
    catalogue: Catalogue
    """The catalogue that `rows` belong to."""
    unknown: UnknownParts | None = None
    """None where the bundle holds all candidates."""


class Ranker(Protocol):
    """Orders candidates. An object belongs to one bundle and keeps no data of requests."""

    name: ClassVar[str]
    """What a policy's `ranker` calls it."""
    runs_long: ClassVar[bool]
    """Whether a call may be slow or fail, as a model's can: it is then guarded by the breaker, may leave the event
    loop, and is run once when the bundle is opened."""

    @classmethod
    def open(cls, bundle: Bundle) -> Self | None:
        """The bundle's ranker of this kind; None where it has none. Raises BundleError where it cannot be used."""
        ...

    @property
    def reads(self) -> frozenset[str]:
        """Which of CONTENT, ITEM_ITEM, SEQUENTIAL and USER_INDEX `score` reads; the other fields are always filled."""
        ...

    def with_content_weight(self, content_weight: float) -> Ranker:
        """The ranker for a policy that sets `content_weight`; this ranker if it has no weight for content."""
        ...

    def score(self, batch: RankerBatch) -> Scores:
        """(users, candidates) float32; higher is better. NaN or infinity means that the ranker failed."""
        ...

    def parts(self, scores: Scores) -> tuple[tuple[str, Scores], ...]:
        """Parts of `scores`, the result of `score`, that `explain` shows besides the inputs: names and arrays of the
        same shape."""
        ...
