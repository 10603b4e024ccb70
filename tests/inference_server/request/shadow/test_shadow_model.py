"""A shadow answers after the callers, and whatever it does, they notice nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded
from inference_server.core.query import Query
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.model.engine.towers import UserTower
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from inference_server.request.shadow import shadow_model
from inference_server.request.shadow.shadows import ShadowPlan
from inference_server.telemetry.shadow_counts import Side
from inference_server.telemetry.shadow_summary import ShadowSummary, shadow_summaries
from tandem.contract.store import UserVector
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.support.serving import Valkey, valkey, wait_until
from tests.support.tiny_bundle import difference_ranker, mean_vector, state_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

ALL = ShadowPlan(models=("challenger",), share=1.0)
SLOW_SECONDS = 0.3
USERS = [f"user-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    bundle = build(tmp_path_factory.mktemp("bundles") / "one", model_version="one", ranker=difference_ranker)
    return open_model(bundle.directory, variant="champion", registry_version="1")


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    """The same items with other vectors."""
    bundle = build(tmp_path_factory.mktemp("bundles") / "two", model_version="two", seed=2, ranker=difference_ranker)
    return open_model(bundle.directory, variant="challenger", registry_version="2")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory, own: ServingModel) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        for number, user in enumerate(USERS):
            items = [f"item-{number}", f"item-{number + 20}"]
            await server.put(user, state_of(items), vectors={"one": UserVector(1, mean_vector(own.bundle, items))})
        yield server


@pytest.fixture(autouse=True)
def same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Request ids, and with them seeds, that are the same in every run of the callers."""
    numbers = itertools.count()
    monkeypatch.setattr("inference_server.request.admission.new_request_id", lambda: f"request-{next(numbers)}")


@asynccontextmanager
async def served(
    own: ServingModel, store: Valkey, shadow: ServingModel | None, plan: ShadowPlan = ALL, **options: Any
) -> AsyncIterator[Parts]:
    slot = ModelSlot()
    slot.current = own
    if shadow is not None:
        slot.further["challenger"] = shadow
    async with in_process(slot, store_url=store.url, shadow=plan, **options) as parts:
        yield parts


async def ask(parts: Parts, user: str = USERS[0], **fields: Any) -> Answer:
    return await parts.recommender.recommend(Query(**{"user_id": user, "num_items": 10, **fields}), None)


async def calls(parts: Parts) -> list[Answer]:
    """Two rounds of all users, at once and then one by one."""
    at_once = await asyncio.gather(*(ask(parts, user) for user in USERS))
    return [*at_once, *[await ask(parts, user) for user in USERS]]


def summary(parts: Parts) -> ShadowSummary:
    (found,) = shadow_summaries(parts.statistics)
    return found


async def outcomes(parts: Parts, count: int, versions: tuple[str, str] = ("two", "one")) -> Counter[str]:
    """The outcomes of the shadow's and the own version, once `count` requests have one."""

    async def all_there() -> Counter[str] | None:
        known = ("challenger", *versions) in parts.statistics.shadow_overlap
        found = Counter(summary(parts).outcomes) if known else Counter[str]()
        return found if found.total() >= count else None

    found: Counter[str] = await wait_until(all_there, f"{count} outcomes")
    assert found.total() == count
    return found


class BadTower(UserTower):
    """The user tower of a bundle, with something wrong."""

    def __init__(self, model: ServingModel) -> None:
        super().__init__(model.bundle.user_tower, model.bundle.manifest.feature_schema)


class SlowTower(BadTower):
    def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        time.sleep(SLOW_SECONDS)
        return super().encode(tensors)


class RaisingTower(BadTower):
    def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:  # noqa: ARG002
        raise RuntimeError("planted")


class NanTower(BadTower):
    def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        return np.full_like(super().encode(tensors), np.nan)


class BadRanker:
    """A ranker that raises, or gives no number."""

    def __init__(self, ranker: Any, *, raises: bool) -> None:
        self.__dict__.update(ranker.__dict__)
        self.name, self.runs_long, self.reads = ranker.name, ranker.runs_long, ranker.reads
        self._raises = raises

    def score(self, batch: Any) -> npt.NDArray[np.float32]:
        if self._raises:
            raise RuntimeError("planted")
        return np.full(batch.rows.shape, np.nan, dtype=np.float32)


def with_tower(kind: type[BadTower]) -> Any:
    return lambda model: replace(model, user_tower=kind(model))


def with_ranker(*, raises: bool) -> Any:
    return lambda model: replace(
        model, rankers={name: BadRanker(ranker, raises=raises) for name, ranker in model.rankers.items()}
    )


def without_items(model: ServingModel) -> ServingModel:
    return replace(model, catalogue=model.bundle_catalogue, search=_NothingFound(model.search))


class _NothingFound:
    """A search that finds no item."""

    def __init__(self, search: Any) -> None:
        self._search = search

    def nearest(self, *args: Any, **options: Any) -> Any:
        found = self._search.nearest(*args, **options)
        return replace(found, scores=np.full_like(found.scores, -np.inf))


PLANTED = {
    "sound": (lambda model: model, {ShadowOutcome.COMPARED}, set()),
    "slow tower": (with_tower(SlowTower), {ShadowOutcome.COMPARED}, set()),
    "raising tower": (with_tower(RaisingTower), {ShadowOutcome.FAILED}, set()),
    "tower that gives NaN": (with_tower(NanTower), {ShadowOutcome.DEGRADED}, {Degraded.USER_VECTOR_NOT_FINITE}),
    "raising ranker": (with_ranker(raises=True), {ShadowOutcome.DEGRADED}, {Degraded.RANKER_FAILED}),
    "ranker that gives NaN": (with_ranker(raises=False), {ShadowOutcome.DEGRADED}, {Degraded.RANKER_FAILED}),
    "no items": (without_items, {ShadowOutcome.EMPTY}, set()),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_callers_notice_nothing(
    planted: str, own: ServingModel, challenger: ServingModel, store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(own, store, None, ShadowPlan()) as parts:
        expected = await calls(parts)
    numbers = itertools.count()
    monkeypatch.setattr("inference_server.request.admission.new_request_id", lambda: f"request-{next(numbers)}")
    spoil, possible, reasons = PLANTED[planted]
    async with served(own, store, spoil(challenger)) as parts:
        answers = await calls(parts)
        # Bit for bit: items, scores, tokens, reasons. Those of one batch may be in different batches of the two runs.
        assert answers[len(USERS) :] == expected[len(USERS) :]
        for answer, other in zip(answers, expected, strict=True):
            assert answer.scores == pytest.approx(other.scores, rel=1e-5)
            assert replace(answer, scores=[]) == replace(other, scores=[])
        found = await outcomes(parts, len(answers))
        assert set(found) <= possible
        assert set(summary(parts).degraded) == reasons
        if planted == "slow tower":
            sides = summary(parts).sides
            assert sides[Side.SHADOW].seconds.total > SLOW_SECONDS
            assert sides[Side.OWN].seconds.count == sides[Side.SHADOW].seconds.count
        # Nothing of the shadow's is counted among the callers'.
        assert parts.statistics.answers_by_source.total() == len(answers)
        assert parts.statistics.degraded_by_reason.total() == 0
        assert parts.statistics.answers_by_model == {"champion": len(answers)}
        assert parts.statistics.stage_seconds["admit"].count == len(answers)
        assert parts.statistics.stage_seconds["select"].count == len(answers)
        assert parts.statistics.breakers["ranker"] == "closed"
        assert set(parts.recommender._arms._recent_lists._lists) == {(user, "one") for user in USERS}
        assert parts.admission.in_flight == 0


async def test_equal_models_are_alike_and_others_differ(
    own: ServingModel, challenger: ServingModel, store: Valkey
) -> None:
    async with served(own, store, replace(own, variant="challenger")) as parts:
        answers = await calls(parts)
        assert await outcomes(parts, 12, ("one", "one")) == {ShadowOutcome.COMPARED: 12}
        same = summary(parts)
        assert (same.model, same.model_version, same.own_version) == ("challenger", "one", "one")
        assert (same.overlap.mean, same.num_same_first_item, same.num_same_list) == (1.0, 12, 12)
        assert same.rank_biased_overlap.mean == pytest.approx(1.0)
        assert (same.rank_shift.count, same.rank_shift.mean) == (120, 0.0)
        assert same.score_difference.count == 120
        assert same.score_difference.total == pytest.approx(0.0, abs=1e-6)  # rounding by batch size
        assert same.sides[Side.OWN].scores.total == pytest.approx(sum(sum(answer.scores) for answer in answers))
        assert same.sides[Side.OWN].popularity.total == same.sides[Side.SHADOW].popularity.total > 0
        assert same.sides[Side.OWN].categories.count == 12
        timed = same.sides[Side.OWN].seconds.count
        assert timed == same.sides[Side.SHADOW].seconds.count >= 1
        assert parts.statistics.user_tower_runs == 0, "the callers have stored vectors"
    async with served(own, store, challenger) as parts:
        answers = await calls(parts)
        await outcomes(parts, 12)
        expected = []
        for user, answer in zip([*USERS, *USERS], answers, strict=True):
            other = await ask(parts, user, model="challenger")
            expected.append(len(set(answer.item_ids) & set(other.item_ids)) / 10)
        assert summary(parts).overlap.mean == pytest.approx(sum(expected) / 12)
        assert summary(parts).overlap.mean < 0.6


async def test_what_is_not_comparable_is_counted_by_reason(
    own: ServingModel, challenger: ServingModel, store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(own, store, challenger) as parts:
        first = await ask(parts)
        await ask(parts, page_token=first.next_page_token)
        await ask(parts, "")  # popular items
        await ask(parts, model="challenger")
        await ask(parts, model="absent")  # degraded: arm_unavailable
        ladder = parts.recommender._arms.of(own).ladder
        monkeypatch.setitem(ladder.seconds, "retrieve", 1e6)
        await ask(parts)  # degraded: deadline
        assert await outcomes(parts, 6) == {
            ShadowOutcome.COMPARED: 1,
            ShadowOutcome.LATER_PAGE: 1,
            ShadowOutcome.OWN_NOT_RANKED: 1,
            ShadowOutcome.OTHER_MODEL: 1,
            ShadowOutcome.OWN_DEGRADED: 2,
        }


async def test_a_share_of_the_requests_is_chosen(own: ServingModel, challenger: ServingModel, store: Valkey) -> None:
    async with served(own, store, challenger, ShadowPlan(models=("challenger",), share=0.0)) as parts:
        await calls(parts)
        assert parts.statistics.shadow_overlap == {}
    async with served(own, store, challenger, ShadowPlan(models=("challenger",), share=0.5)) as parts:
        ids = [(await ask(parts, user)).request_id for user in USERS * 4]
        chosen = sum(map(parts.recommender.shadows._chosen, ids))
        assert 0 < chosen < 24
        await outcomes(parts, chosen)


async def test_a_full_queue_drops_and_nothing_runs_while_callers_wait(
    own: ServingModel, challenger: ServingModel, store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_model, "MAX_WAITING", 3)
    monkeypatch.setattr(shadow_model, "_MAX_WAIT_SECONDS", 0.2)
    async with served(own, store, challenger) as parts:
        (shadow,) = parts.recommender.shadows._shadows
        shadow._is_quiet = lambda: False  # callers never cease to wait
        await asyncio.gather(*(ask(parts, user) for user in USERS))
        assert await outcomes(parts, 6) == {ShadowOutcome.QUEUE_FULL: 3, ShadowOutcome.EXPIRED: 3}


async def test_a_call_that_does_not_end_is_left_alone(
    own: ServingModel, challenger: ServingModel, store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = asyncio.Event()
    loop = asyncio.get_running_loop()

    class StuckTower(BadTower):
        def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
            asyncio.run_coroutine_threadsafe(ends.wait(), loop).result()
            return super().encode(tensors)

    monkeypatch.setattr(shadow_model, "_MIN_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(shadow_model, "_PATIENCE_FACTOR", 0.0)
    async with served(own, store, replace(challenger, user_tower=StuckTower(challenger))) as parts:
        await ask(parts)
        assert await outcomes(parts, 1) == {ShadowOutcome.TIMED_OUT: 1}
        await ask(parts)  # waits in the queue while the call goes on
        await asyncio.wait_for(parts.recommender.shadows.close(), 5.0)  # and a shutdown does not wait for it
        await ask(parts)
        assert summary(parts).outcomes == {ShadowOutcome.TIMED_OUT: 1}
        ends.set()


async def test_counts_are_of_one_pair_of_versions(own: ServingModel, challenger: ServingModel, store: Valkey) -> None:
    async with served(own, store, None) as parts:
        await ask(parts)
        assert await outcomes(parts, 1, ("", "one")) == {ShadowOutcome.NOT_IN_FORCE: 1}
        parts.models.further["challenger"] = challenger
        await ask(parts)
        assert await outcomes(parts, 1) == {ShadowOutcome.COMPARED: 1}
        # Promoted: the own model's version has changed too.
        parts.models.current = replace(challenger, variant="champion")
        await ask(parts)
        assert await outcomes(parts, 1, ("two", "two")) == {ShadowOutcome.COMPARED: 1}
        assert summary(parts).num_same_list == 1
        del parts.models.further["challenger"]
        parts.recommender.forget_arm("challenger")
        assert shadow_summaries(parts.statistics) == []
        assert all(not key for key in parts.statistics.shadow_requests)


async def test_a_state_that_has_changed_is_not_compared(
    own: ServingModel, challenger: ServingModel, store: Valkey
) -> None:
    async with served(own, store, challenger) as parts:
        await store.put("mover", state_of(["item-1"]))
        (shadow,) = parts.recommender.shadows._shadows
        quiet, shadow._is_quiet = shadow._is_quiet, lambda: False
        await ask(parts, "mover")
        await store.put("mover", state_of(["item-1", "item-2"], revision=2))
        shadow._is_quiet = quiet
        assert await outcomes(parts, 1) == {ShadowOutcome.STATE_CHANGED: 1}
