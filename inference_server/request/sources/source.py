"""The interface of every retrieval source beside the two towers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from inference_server.core.degradation import Degraded
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Encoded
from inference_server.store.user_store import ReadsStore
from tandem.contract.vocabulary import Rows


class Source(ABC):
    """Proposes candidates for the users of a batch. One object per worker.

    It proposes rows of the model's catalogue and need not filter them: retrieval drops the rows that a user may not be
    shown, those that an earlier source has proposed, and those beyond the number that the user's policy takes.
    """

    name: ClassVar[str]
    """What a policy's `sources` and `Reason.source` call it."""
    num_candidates: ClassVar[int]
    """Number of candidates, unless a policy sets it; 0: the source is off."""

    def __init__(self, store: ReadsStore) -> None:
        """`store` is the worker's online store, for a source that reads it off the request path (`follow`)."""
        self._store = store

    def available(self, model: ServingModel) -> bool:  # noqa: ARG002 - most need no data of the bundle
        """Whether the bundle has the data that the source needs. Without it the source proposes nothing, and answers do
        not count as degraded."""
        return True

    @abstractmethod
    def propose(self, encoded: Encoded, num_candidates: int) -> Rows | Degraded:
        """Candidates of each user, best first: (users, n) int64, MISSING_ROW where there is none; repeats are allowed.

        A user's first candidates must not depend on `num_candidates`, the largest number that any user of the batch
        takes. Returns a degraded reason instead when the source cannot propose now.
        """

    async def follow(self) -> None:  # noqa: B027 - most sources have nothing to follow
        """Refreshes the data that the source reads off the request path. Runs until it is cancelled, or returns."""
