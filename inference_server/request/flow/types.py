"""What passes between the stages of a request, in the order in which it flows.

    Admitted -> Hydrated -> Encoded -> Candidates -> Ranked -> Selection -> Answer

A request is admitted alone and shares a micro-batch from then on: every other type is of a batch. All are frozen, and
each carries the one before it or what later stages need of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from inference_server.core.query import Query
from inference_server.model.engine.search import Allowed
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Policy
from inference_server.request.flow.ladder import Rung
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import NO_ROWS, Rows

Lap = tuple[str, int, int]
"""A stage, its start and its end, in nanoseconds since 1970."""


class Caller:
    """Who waits for an answer: gone when the call was cancelled, or when it got an answer from memory in time."""

    __slots__ = ("_reply",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reply: asyncio.Future[Answer | None] = loop.create_future()

    @property
    def gone(self) -> bool:
        """Whether work for this caller is of no use any more."""
        return self._reply.done()

    def deliver(self, answer: Answer | None) -> None:
        """Hands over an answer; None: there will be none in time. To a caller who is gone, nothing happens."""
        if not self._reply.done():
            self._reply.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Hands over an error."""
        if not self._reply.done():
            self._reply.set_exception(error)

    def wait(self) -> asyncio.Future[Answer | None]:
        """What to await."""
        return self._reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A request that will be answered."""

    request_id: str
    query: Query
    num_items: int
    policy: Policy
    model: ServingModel
    """What answers: chosen once, so that no answer mixes two."""
    caller: Caller
    admitted_at: float
    """time.monotonic seconds."""
    deadline: float
    """time.monotonic seconds."""
    fingerprint: bytes
    """What a page token is bound to."""
    shown_rows: Rows = field(default_factory=NO_ROWS.copy)
    """(n,) int64: what earlier pages showed, as `Catalogue.stable_rows` numbers it."""
    laps: list[Lap] | None = None
    """The stages that the request went through, in their order; None where nobody wants to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is stored of one user."""

    state: UserState | None = None
    """None: nothing is known of the user, or the store did not say."""
    stored_vector: UserVector | None = None
    """Of the model that answers, whatever state it was computed from."""
    degraded_reasons: tuple[Degraded, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Hydrated:
    """A batch with what is stored of its users; lists go together."""

    requests: Sequence[Admitted]
    known: Sequence[Known]


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One request with what is known of its user."""

    admitted: Admitted
    state: UserState
    """The stored state with the recent items as its newest events; empty for a user of whom nothing is known."""
    is_extended: bool
    """Whether the state has recent items that no stored vector knows of."""
    rung: Rung
    degraded_reasons: tuple[Degraded, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Requests of one rung with their users' vectors."""

    model: ServingModel
    users: Sequence[User]
    vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    history_rows: npt.NDArray[np.int64]
    """(users, model.num_events_ranked_by) int64: the newest events on items that the bundle holds, newest last;
    MISSING_ROW in front. Nothing but their vectors is known of items that came later."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What one user is shown. Arrays go together, best first."""

    user: User
    rows: npt.NDArray[np.int64]
    """(n,) int64."""
    scores: npt.NDArray[np.float32]
    """(n,) float32, boosts included."""
    places: npt.NDArray[np.int64]
    """(n,) int64, columns of the table of candidates."""
    propensities: npt.NDArray[np.float32] | None
    """(n,) float32; None: 1 everywhere, because nothing was left to chance."""
    list_rows: npt.NDArray[np.int64]
    """(m,) int64: the best candidates in their order, at most recent_lists.MAX_ITEMS, exploration left out of
    account."""
    list_scores: npt.NDArray[np.float32]
    """(m,) float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What the users of a batch are shown."""

    ranked: Ranked
    chosen: Sequence[Chosen]
