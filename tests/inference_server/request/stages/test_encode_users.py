"""The user's vector: the stored vector where it is up to date, else the tower's, and none where it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from inference_server.core.degradation import Degraded
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.types import Hydrated, Known, User
from inference_server.request.stages.encode_users import encode_users
from inference_server.telemetry.statistics import Statistics
from tandem.contract.bundle import Bundle
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import MISSING_ROW
from tests.inference_server.conftest import build
from tests.inference_server.defects import copy_of, nan_user_vectors
from tests.inference_server.request.requests_at_stages import admitted
from tests.support.tiny_bundle import mean_vector, state_of


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@dataclass(frozen=True)
class EncodedUser:
    """The only user of a batch."""

    user: User
    vector: np.ndarray | None

    @property
    def degraded_reasons(self) -> tuple[Degraded, ...]:
        return self.user.degraded_reasons


class TestEncodeUsers:
    async def encode(
        self,
        model: ServingModel,
        threads: ThreadPoolExecutor,
        *,
        seconds: float = 60.0,
        state: UserState | None = None,
        stored_vector: UserVector | None = None,
        **fields: object,
    ) -> tuple[EncodedUser, Statistics]:
        """Encodes a batch of one request."""
        statistics = Statistics()
        hydrated = Hydrated(
            requests=[admitted(model, seconds=seconds, **fields)],
            known=[Known(state=state, stored_vector=stored_vector)],
        )
        encoded, without_vector = await encode_users(hydrated, EngineCalls(threads, Ladder()), statistics)
        assert len(encoded) + len(without_vector) == 1
        if without_vector:
            return EncodedUser(without_vector[0], None), statistics
        (user,) = encoded[0].users
        return EncodedUser(user, encoded[0].vectors[0]), statistics

    async def test_a_fresh_stored_vector_is_used_as_it_is(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(7, np.arange(16, dtype=np.float32))
        state = state_of(["item-1"], revision=7)
        encoded, statistics = await self.encode(model, threads, state=state, stored_vector=stored)
        np.testing.assert_array_equal(encoded.vector, stored.values)
        assert statistics.user_tower_runs == 0

    @pytest.mark.parametrize(
        "stored",
        [
            None,
            UserVector(6, np.ones(16, dtype=np.float32)),
            UserVector(7, np.ones(15, dtype=np.float32)),
            UserVector(7, np.full(16, np.nan, dtype=np.float32)),
        ],
        ids=["missing", "stale", "another dimension", "not finite"],
    )
    async def test_else_the_tower_computes_it(
        self, model: ServingModel, threads: ThreadPoolExecutor, bundle: Bundle, stored: UserVector | None
    ) -> None:
        state = state_of(["item-1", "item-2"], revision=7)
        encoded, statistics = await self.encode(model, threads, state=state, stored_vector=stored)
        assert statistics.user_tower_runs == 1
        assert encoded.vector is not None
        np.testing.assert_allclose(encoded.vector, mean_vector(bundle, ["item-1", "item-2"]), atol=1e-6)
        assert encoded.degraded_reasons == ()

    async def test_known_recent_items_overrule_the_stored_vector(
        self, model: ServingModel, threads: ThreadPoolExecutor, bundle: Bundle
    ) -> None:
        stored = UserVector(1, np.ones(16, dtype=np.float32))
        encoded, _ = await self.encode(
            model,
            threads,
            state=state_of(["item-1"]),
            stored_vector=stored,
            recent_item_ids=("nobody knows this", "item-5"),
        )
        assert encoded.vector is not None
        np.testing.assert_allclose(encoded.vector, mean_vector(bundle, ["item-1", "item-5"]), atol=1e-6)
        assert sorted(model.known_rows(encoded.user.state.seen_item_keys).tolist()) == [1, 5]

    async def test_unknown_recent_items_leave_the_stored_vector(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(1, np.ones(16, dtype=np.float32))
        encoded, statistics = await self.encode(
            model, threads, state=state_of(["item-1"]), stored_vector=stored, recent_item_ids=("nobody knows this",)
        )
        np.testing.assert_array_equal(encoded.vector, stored.values)
        assert statistics.user_tower_runs == 0

    @pytest.mark.parametrize("state", [None, UserState(), state_of(["gone-1", "gone-2"])])
    async def test_without_a_known_event_there_is_no_vector_and_no_reason(
        self, model: ServingModel, threads: ThreadPoolExecutor, state: UserState | None
    ) -> None:
        encoded, statistics = await self.encode(model, threads, state=state)
        assert encoded.vector is None
        assert encoded.degraded_reasons == ()
        assert statistics.user_tower_runs == 0

    async def test_too_little_time_is_a_reason(self, model: ServingModel, threads: ThreadPoolExecutor) -> None:
        encoded, statistics = await self.encode(model, threads, seconds=0.002, state=state_of(["item-1"]))
        assert encoded.vector is None
        assert encoded.degraded_reasons == (Degraded.DEADLINE,)
        assert statistics.user_tower_runs == 0

    async def test_a_batch_is_one_run_and_everyone_gets_their_own(
        self, model: ServingModel, threads: ThreadPoolExecutor, bundle: Bundle
    ) -> None:
        histories = [[f"item-{row}", f"item-{2 * row + 1}"] for row in range(20)]
        stored = {3: UserVector(1, np.arange(16, dtype=np.float32)), 8: UserVector(2, np.ones(16, dtype=np.float32))}
        hydrated = Hydrated(
            requests=[admitted(model, user_id=str(number)) for number in range(22)],
            known=[
                *(
                    Known(state=state_of(history, revision=1), stored_vector=stored.get(number))
                    for number, history in enumerate(histories)
                ),
                Known(),
                Known(degraded_reasons=(Degraded.STORE_VALUE_UNREADABLE,)),
            ],
        )
        statistics = Statistics()
        (encoded,), without_vector = await encode_users(hydrated, EngineCalls(threads, Ladder()), statistics)
        assert statistics.user_tower_runs == 19, "user 3 has a fresh vector, the last two have no behaviour"
        for number, (user, vector) in enumerate(zip(encoded.users, encoded.vectors, strict=True)):
            assert user.admitted.query.user_id == str(number)
            expected = stored[3].values if number == 3 else mean_vector(bundle, histories[number])
            np.testing.assert_allclose(vector, expected, atol=1e-6)
            assert encoded.history_rows[number, -2:].tolist() == [number, 2 * number + 1]
            assert (encoded.history_rows[number, :-2] == MISSING_ROW).all()
        assert [user.admitted.query.user_id for user in without_vector] == ["20", "21"]
        assert [user.degraded_reasons for user in without_vector] == [(), (Degraded.STORE_VALUE_UNREADABLE,)]

    async def test_rungs_are_told_apart_and_the_most_urgent_comes_first(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        ladder = Ladder(retrieve=5.0, sources=5.0, rank=5.0)
        seconds = {"full": 60.0, "no ranker": 25.0, "no sources": 15.0, "memory": 5.0}
        hydrated = Hydrated(
            requests=[admitted(model, user_id=name, seconds=left) for name, left in seconds.items()],
            known=[Known(state=state_of(["item-1"]))] * 4,
        )
        encoded, without_vector = await encode_users(hydrated, EngineCalls(threads, ladder), Statistics())
        assert [[user.admitted.query.user_id for user in rung.users] for rung in encoded] == [
            ["no sources"],
            ["no ranker"],
            ["full"],
        ]
        assert [user.admitted.query.user_id for user in without_vector] == ["memory"]
        assert without_vector[0].degraded_reasons == (Degraded.DEADLINE,)

    async def test_a_slow_tower_is_left_out_for_those_who_need_it_and_nobody_else(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        ladder, statistics = Ladder(encode_user=5.0), Statistics()
        state, stored = state_of(["item-1"], revision=7), UserVector(7, np.ones(16, dtype=np.float32))
        known = {
            "needs the tower": Known(state=state),
            "stored": Known(state=state, stored_vector=stored),
            "unknown": Known(),
        }
        hydrated = Hydrated(
            requests=[admitted(model, user_id=name, seconds=8.0) for name in known], known=list(known.values())
        )
        (encoded,), without_vector = await encode_users(hydrated, EngineCalls(threads, ladder), statistics)
        assert [user.admitted.query.user_id for user in encoded.users] == ["stored"]
        assert {user.admitted.query.user_id: user.degraded_reasons for user in without_vector} == {
            "needs the tower": (Degraded.DEADLINE,),
            "unknown": (),
        }
        assert statistics.user_tower_runs == 0
        assert ladder.seconds["encode_user"] < 5.0, "a skipped tower is tried again in the end"

    async def test_events_on_unknown_items_make_room_for_older_ones(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        state = state_of(["item-7", *(f"gone-{number}" for number in range(30)), "item-9", "gone-30"])
        hydrated = Hydrated(requests=[admitted(model)], known=[Known(state=state)])
        stored = Known(state=state, stored_vector=UserVector(1, np.ones(16, dtype=np.float32)))
        (encoded,), _ = await encode_users(
            Hydrated(requests=hydrated.requests, known=[stored]), EngineCalls(threads, Ladder()), Statistics()
        )
        assert encoded.history_rows[0, -2:].tolist() == [7, 9]

    async def test_a_vector_that_is_not_finite_is_a_reason(
        self, bundle: Bundle, threads: ThreadPoolExecutor, tmp_path: Path
    ) -> None:
        broken = copy_of(bundle.directory, tmp_path / "broken")
        nan_user_vectors(broken)
        encoded, _ = await self.encode(open_model(broken), threads, state=state_of(["item-1"]))
        assert encoded.vector is None
        assert encoded.degraded_reasons == (Degraded.USER_VECTOR_NOT_FINITE,)

    async def test_a_tower_that_reads_ids_is_told_the_user(self, threads: ThreadPoolExecutor, tmp_path: Path) -> None:
        with_ids = open_model(build(tmp_path / "ids", user_ids=("ada", "bob")).directory)
        vectors = {}
        for user_id in ("ada", "bob", "nobody", "no one"):
            encoded, _ = await self.encode(with_ids, threads, user_id=user_id, state=state_of(["item-1"]))
            assert encoded.vector is not None
            vectors[user_id] = encoded.vector
        np.testing.assert_allclose(vectors["nobody"], mean_vector(with_ids.bundle, ["item-1"]), atol=1e-6)
        np.testing.assert_array_equal(vectors["nobody"], vectors["no one"])
        assert not np.allclose(vectors["ada"], vectors["bob"], atol=1e-2)
        assert not np.allclose(vectors["ada"], vectors["nobody"], atol=1e-2)
