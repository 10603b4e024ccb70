"""The types that pass between the stages of a request, in the order of the stages.

    Admitted -> Hydrated -> Encoded -> Candidates -> Ranked -> Selection -> Answered

A request is admitted alone and shares a micro-batch from then on, so every later type describes users of a batch. All
are frozen, and each holds its predecessor, or the parts of it that later stages need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from inference_server.core.query import Query
from inference_server.model.engine.linear import LinearScores
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Policy
from inference_server.request.flow.ladder import Rung
from tandem.contract.experiments import Assignment
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import NO_ROWS, Rows

Lap = tuple[str, int, int]
"""Name of a stage, its start and its end, in nanoseconds since 1970."""


class Caller:
    """The call that waits for an answer. It is gone once it is cancelled or answered."""

    __slots__ = ("_reply",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reply: asyncio.Future[Answer | None] = loop.create_future()

    @property
    def gone(self) -> bool:
        """Whether further work for this caller is useless."""
        return self._reply.done()

    def deliver(self, answer: Answer | None) -> None:
        """Hands over an answer; None: no answer will be ready in time. Does nothing when the caller is gone."""
        if not self._reply.done():
            self._reply.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Hands over an error."""
        if not self._reply.done():
            self._reply.set_exception(error)

    def wait(self) -> asyncio.Future[Answer | None]:
        """The future of the answer."""
        return self._reply


class ManyCallers:
    """A call with many queries, which waits for the answers to all of them with one future."""

    __slots__ = ("_num_open", "_replied", "outcomes")

    def __init__(self, loop: asyncio.AbstractEventLoop, num_queries: int) -> None:
        self._replied: asyncio.Future[None] = loop.create_future()
        self._num_open = num_queries
        self.outcomes: list[Answer | Exception | None] = [None] * num_queries
        """The outcome of each query; None: there is none yet."""

    @property
    def gone(self) -> bool:
        """Whether the call is cancelled, its time is over, or every query has its outcome."""
        return self._replied.done()

    def set_outcome(self, index: int, outcome: Answer | Exception) -> None:
        """Sets the outcome of one query that has none."""
        self.outcomes[index] = outcome
        self._num_open -= 1
        if not self._num_open:
            self.give_up()

    def give_up(self) -> None:
        """Waits no longer for the queries without an outcome."""
        if not self._replied.done():
            self._replied.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """The future that is done once no more outcomes are waited for."""
        return self._replied


class QueryCaller:
    """One query of a call with many: what `Caller` is to a request."""

    __slots__ = ("_index", "_many")

    def __init__(self, many: ManyCallers, index: int) -> None:
        self._many = many
        self._index = index

    @property
    def gone(self) -> bool:
        """Whether further work for this query is useless."""
        return self._many.gone or self._many.outcomes[self._index] is not None

    def deliver(self, answer: Answer) -> None:
        """Hands over an answer. Does nothing when the query has an outcome, or the call is gone."""
        if not self.gone:
            self._many.set_outcome(self._index, answer)

    def fail(self, error: Exception) -> None:
        """Hands over an error."""
        if not self.gone:
            self._many.set_outcome(self._index, error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A request that holds a permit and will be answered."""

    request_id: str
    query: Query
    num_items: int
    policy: Policy
    model: ServingModel
    """The model that answers: chosen once, so that no answer mixes two."""
    caller: Caller | QueryCaller
    admitted_at: float
    """time.monotonic seconds."""
    deadline: float
    """time.monotonic seconds."""
    fingerprint: bytes
    """Digest of the request that a page token is bound to."""
    policies_fingerprint: str = ""
    """Fingerprint of the file that `policy` is from; empty: the built-in policy."""
    shown_rows: Rows = field(default_factory=NO_ROWS.copy)
    """(n,) int64: the items that earlier pages showed, as `Catalogue.stable_rows` numbers them."""
    assignments: tuple[Assignment, ...] = ()
    """The arms of experiments that the request is in, as the answer names them."""
    arm_unavailable: bool = False
    """Whether the request's arm names a model or a scenario that is not in force: the server's own, or the request's,
    answers."""
    laps: list[Lap] | None = None
    """The stages that the request, or the call of a query, went through, in order; None: it is not traced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What the online store holds about one user."""

    state: UserState | None = None
    """None: the store holds no state of the user, or did not answer."""
    stored_vector: UserVector | None = None
    """The vector stored for the model that answers; an older state than `state` may have made it."""
    degraded_reasons: tuple[Degraded, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Hydrated:
    """A batch with the stored data of its users; both sequences are in the order of the requests."""

    requests: Sequence[Admitted]
    known: Sequence[Known]


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One request and the state of its user."""

    admitted: Admitted
    state: UserState
    """The stored state with the recent items as its newest events; empty for an unknown user."""
    is_extended: bool
    """Whether the state has recent items of the request, which no stored vector takes into account."""
    rung: Rung
    degraded_reasons: tuple[Degraded, ...]

    def with_reason(self, reason: Degraded) -> User:
        """A copy with one more degraded reason."""
        return replace(self, degraded_reasons=(*self.degraded_reasons, reason))


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Requests of one rung with their users' vectors."""

    model: ServingModel
    users: Sequence[User]
    vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    history_rows: npt.NDArray[np.int64]
    """(users, model.num_events_ranked_by) int64: the newest events on items that the bundle holds, newest last, with
    MISSING_ROW in front. Items that came after the bundle are left out: only their vectors are known."""
    linear: LinearScores
    """Scores of the item-item and the sequential source."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of candidates that one source filled."""

    source: str
    """As `Reason.source` names it."""
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Items that may be recommended to users with a vector; no user has an item twice."""

    encoded: Encoded
    rows: npt.NDArray[np.int64]
    """(users, candidates) int64; any row where `collaborative` is -inf."""
    collaborative: npt.NDArray[np.float32]
    """(users, candidates) float32 inner products of the two towers, -inf where there is no candidate."""
    columns: Sequence[Columns]
    users: Sequence[User]
    """The users of `encoded`, with the degraded reasons that retrieval added."""


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
    """Whether the columns are in the order to show; if not, the scores decide."""
    parts: tuple[tuple[str, npt.NDArray[np.float32]], ...] = ()
    """The parts that the scores are made of, by name; (users, candidates) float32 each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The items that one user is shown. The arrays up to `ranks` are parallel, best first; so are the last two."""

    user: User
    rows: npt.NDArray[np.int64]
    """(n,) int64."""
    scores: npt.NDArray[np.float32]
    """(n,) float32, boosts included."""
    columns: npt.NDArray[np.int64]
    """(n,) int64: the column of each item in the table of candidates."""
    propensities: npt.NDArray[np.float32] | None
    """(n,) float32, the probability with which each item is shown at its position; None: 1 everywhere."""
    ranks: npt.NDArray[np.int64] | None
    """(n,) int64, the place of each item in the pool before exploration; None: 0, 1, 2 and so on."""
    pool_rows: npt.NDArray[np.int64]
    """(m,) int64: the candidates that the items were taken from, in their order without exploration."""
    pool_scores: npt.NDArray[np.float32]
    """(m,) float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The items that the users of one `Ranked` are shown."""

    ranked: Ranked
    chosen: Sequence[Chosen]
    """In the order of the users."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One user's answer and the choice that it was made from."""

    ranked: Ranked
    chosen: Chosen
    answer: Answer
