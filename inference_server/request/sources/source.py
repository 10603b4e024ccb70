"""What every retrieval source beside the two towers offers."""

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
    """Candidates that a policy takes when it does not say; 0: the source is off."""

    def __init__(self, store: ReadsStore) -> None:
        """`store` is the worker's online store, for a source that reads it off the request path (`follow`)."""
        self._store = store

    def available(self, model: ServingModel) -> bool:  # noqa: ARG002 - most need nothing of a bundle
        """Whether this bundle has what the source needs. Where it has not, the source proposes nothing, and answers
        are not degraded for that."""
        return True

    @abstractmethod
    def propose(self, encoded: Encoded, num_candidates: int) -> Rows | Degraded:
        """Candidates of each user, best first: (users, n) int64, MISSING_ROW where there is none; repeats are allowed.

        A user's first candidates must not depend on `num_candidates`, the largest number that any user of the batch
        takes. The array must be the caller's to overwrite. Returns a reason instead when the source cannot propose
        now.
        """

    async def follow(self) -> None:  # noqa: B027 - most sources follow nothing
        """Keeps current what the source reads off the request path; runs until it is cancelled, or returns."""
