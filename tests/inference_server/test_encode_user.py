"""The user's vector: stored where that is up to date, computed where it is not, and left out where it cannot be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from inference_server.degradation import Degraded
from inference_server.serving_model import ServingModel, open_model
from inference_server.stages.encode_user import Encoded, encode_user
from inference_server.stages.hydrate import Hydrated
from inference_server.statistics import Statistics
from tandem.contract.bundle import Bundle
from tandem.contract.store import UserState, UserVector
from tests.inference_server.conftest import build
from tests.inference_server.defects import copy_of, nan_user_vectors
from tests.inference_server.requests_at_stages import admitted
from tests.support.tiny_bundle import mean_vector, state_of


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class TestEncodeUser:
    async def encode(
        self, model: ServingModel, threads: ThreadPoolExecutor, *, seconds: float = 60.0, **fields: object
    ) -> tuple[Encoded, Statistics]:
        state, vector = fields.pop("state", None), fields.pop("stored_vector", None)
        statistics = Statistics()
        hydrated = Hydrated(
            admitted=admitted(model, seconds=seconds, **fields),
            state=state,  # type: ignore[arg-type]
            stored_vector=vector,  # type: ignore[arg-type]
        )
        return await encode_user(hydrated, threads, statistics), statistics

    async def test_a_fresh_stored_vector_is_used_as_it_is(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(7, np.arange(16, dtype=np.float32))
        state = state_of(["item-1"], revision=7)
        encoded, statistics = await self.encode(model, threads, state=state, stored_vector=stored)
        assert encoded.vector is stored.values
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
        assert sorted(encoded.seen_rows.tolist()) == [1, 5]

    async def test_unknown_recent_items_leave_the_stored_vector(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(1, np.ones(16, dtype=np.float32))
        encoded, statistics = await self.encode(
            model, threads, state=state_of(["item-1"]), stored_vector=stored, recent_item_ids=("nobody knows this",)
        )
        assert encoded.vector is stored.values
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

    async def test_busy_threads_are_not_waited_for_longer_than_the_deadline(self, model: ServingModel) -> None:
        released = threading.Event()
        with ThreadPoolExecutor(1) as busy:
            busy.submit(released.wait, 60)
            encoded, _ = await self.encode(model, busy, seconds=0.1, state=state_of(["item-1"]))
            released.set()
        assert encoded.vector is None
        assert encoded.degraded_reasons == (Degraded.DEADLINE,)

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
