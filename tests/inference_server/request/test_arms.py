"""Several models beside each other in one worker: each answers its own requests, and none harms another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from inference_server.core.errors import InvalidRequest
from inference_server.core.query import Query, SimilarQuery
from inference_server.model.engine.towers import UserTower
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from tandem.contract.store import UserVector
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.support.serving import Valkey, valkey
from tests.support.tiny_bundle import difference_ranker, mean_vector, state_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

SLOW_SECONDS = 0.3


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    bundle = build(tmp_path_factory.mktemp("bundles") / "one", model_version="one", item_prefix="one", seed=1)
    return open_model(bundle.directory, variant="champion", registry_version="1")


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    """Other items, another dimension: any mixture would show."""
    bundle = build(tmp_path_factory.mktemp("bundles") / "two", model_version="two", item_prefix="two", seed=2, dim=24)
    return open_model(bundle.directory, variant="challenger", registry_version="2")


@pytest.fixture
def slot(control: ServingModel, challenger: ServingModel) -> ModelSlot:
    models = ModelSlot()
    models.current = control
    models.further["challenger"] = challenger
    return models


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(
    tmp_path_factory: pytest.TempPathFactory, control: ServingModel, challenger: ServingModel
) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        vectors = {
            "one": UserVector(1, mean_vector(control.bundle, ["one-1"])),
            "two": UserVector(1, mean_vector(challenger.bundle, ["two-2"])),
        }
        await server.put("u", state_of(["one-1", "two-2"]), vectors=vectors)
        yield server


async def ask(parts: Parts, model: str = "", **fields: Any) -> Answer:
    return await parts.recommender.recommend(Query(**{"user_id": "u", "num_items": 10, "model": model, **fields}), None)


def prefixes(answer: Answer) -> set[str]:
    return {item.partition("-")[0] for item in answer.item_ids}


async def test_each_request_is_answered_by_the_model_that_it_names(slot: ModelSlot, store: Valkey) -> None:
    async with in_process(slot, store_url=store.url) as parts:
        names = ["", "challenger", "champion", "2", "1"] * 12
        answers = await asyncio.gather(*(ask(parts, name, explain=True) for name in names))
        for name, answer in zip(names, answers, strict=True):
            version, variant = ("two", "challenger") if name in {"challenger"} else ("one", "champion")
            if name == "2":  # no model is in force under this number: the alias is the name
                assert answer.degraded_reasons == (Degraded.ARM_UNAVAILABLE,)
            else:
                assert answer.degraded_reasons == ()
            assert (answer.model_version, answer.variant, prefixes(answer)) == (version, variant, {version})
            assert answer.reasons is not None
            because = {item.partition("-")[0] for reason in answer.reasons for item in reason.because_item_ids}
            assert because == {version}
        assert parts.statistics.user_tower_runs == 0, "each model finds the vector that is stored for it"


async def test_a_model_that_is_not_in_force_is_stood_in_for(slot: ModelSlot, store: Valkey) -> None:
    del slot.further["challenger"]
    async with in_process(slot, store_url=store.url) as parts:
        plain = await ask(parts)
        answer = await ask(parts, "challenger")
        assert (answer.item_ids, answer.scores, answer.source) == (plain.item_ids, plain.scores, plain.source)
        assert (answer.model_version, answer.variant) == ("one", "champion")
        assert answer.degraded_reasons == (Degraded.ARM_UNAVAILABLE,)
        # The list is as good as any: it is remembered, and a request without time is answered from it.
        late = await ask_without_time(parts, "challenger")
        assert (late.source, late.item_ids) == (Source.CACHED, answer.item_ids)
        assert late.degraded_reasons == (Degraded.DEADLINE, Degraded.ARM_UNAVAILABLE)
        assert parts.statistics.degraded_by_model["challenger", "arm_unavailable"] == 2
        assert parts.statistics.answers_by_model == {"champion": 2}, "what is plain is counted while there are several"


async def ask_without_time(parts: Parts, model: str) -> Answer:
    arms = parts.recommender._arms
    served = parts.models.named(model) or parts.models.current
    assert served is not None
    ladder = arms.of(served).ladder
    before = ladder.seconds["retrieve"]
    ladder.seconds["retrieve"] = 1e6
    try:
        return await ask(parts, model)
    finally:
        ladder.seconds["retrieve"] = before


async def test_lists_in_memory_are_of_one_model(slot: ModelSlot, store: Valkey) -> None:
    async with in_process(slot, store_url=store.url) as parts:
        one, two = await ask(parts), await ask(parts, "challenger")
        for name, before in (("", one), ("challenger", two), ("", one)):
            late = await ask_without_time(parts, name)
            assert (late.source, late.item_ids) == (Source.CACHED, before.item_ids)
            assert late.degraded_reasons == (Degraded.DEADLINE,)


async def test_a_list_is_continued_by_the_model_that_began_it(slot: ModelSlot, store: Valkey) -> None:
    async with in_process(slot, store_url=store.url) as parts:
        first = await ask(parts, "challenger")
        # The user has left the arm meanwhile, or joined one: no page mixes two lists.
        second = await ask(parts, "", page_token=first.next_page_token)
        assert (second.model_version, prefixes(second)) == ("two", {"two"})
        assert not set(first.item_ids) & set(second.item_ids)
        began = await ask(parts)
        continued = await ask(parts, "challenger", page_token=began.next_page_token)
        assert (continued.model_version, continued.degraded_reasons) == ("one", ())
        del slot.further["challenger"]
        with pytest.raises(InvalidRequest, match="no longer served"):
            await ask(parts, "challenger", page_token=first.next_page_token)


async def test_a_version_under_two_names_is_opened_once_and_answers_under_each(
    slot: ModelSlot, control: ServingModel, store: Valkey
) -> None:
    slot.further["same"] = replace(control, variant="same")
    async with in_process(slot, store_url=store.url) as parts:
        own, same = await ask(parts), await ask(parts, "same")
        assert own.item_ids == same.item_ids
        assert (own.variant, same.variant) == ("champion", "same")
        following = await ask(parts, "same", page_token=same.next_page_token)
        assert following.variant == "same"


async def test_similar_items_stay_with_the_own_model(slot: ModelSlot, store: Valkey) -> None:
    async with in_process(slot, store_url=store.url) as parts:
        similar = await parts.recommender.similar_items(SimilarQuery(item_ids=("one-3",), num_items=5), None)
        assert (similar.model_version, prefixes(similar)) == ("one", {"one"})


class SlowTower(UserTower):
    """The user tower of a bundle, which takes its time, without keeping the interpreter."""

    def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        time.sleep(SLOW_SECONDS)
        return super().encode(tensors)


def slowed(model: ServingModel) -> ServingModel:
    return replace(model, user_tower=SlowTower(model.bundle.user_tower, model.bundle.manifest.feature_schema))


async def test_a_slow_tower_degrades_its_own_arm_alone(slot: ModelSlot, challenger: ServingModel) -> None:
    slot.further["challenger"] = slowed(challenger)
    recent = {"user_id": "", "recent_item_ids": ("one-1", "two-2")}  # the tower must run
    async with in_process(slot, max_seconds=0.2) as parts:
        slow: list[Answer] = []

        async def keep_asking() -> None:
            while True:
                slow.extend(await asyncio.gather(*(ask(parts, "challenger", **recent) for _ in range(4))))

        asking = asyncio.create_task(keep_asking())
        quick: list[tuple[Answer, float]] = []
        while len(slow) < 40:
            started = time.monotonic()
            quick.append((await ask(parts, **recent), time.monotonic() - started))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert {reason for answer in slow for reason in answer.degraded_reasons} == {Degraded.DEADLINE}
        assert {answer.variant for answer in slow} == {"challenger"}
        assert all(answer.degraded_reasons for answer in slow)
        reasons = [reason for answer, _ in quick for reason in answer.degraded_reasons]
        assert reasons == [], f"{len(reasons)} of {len(quick)} answers of the other model are degraded"
        # Most did not wait for the slow tower at all; how long a busy machine takes is not asked.
        assert sorted(seconds for _, seconds in quick)[len(quick) // 2] < SLOW_SECONDS / 2
        assert parts.statistics.degraded_by_model["challenger", "deadline"] == len(slow)
        assert parts.statistics.seconds_by_model["challenger"].count == len(slow)


async def test_a_failing_ranker_is_left_out_in_its_own_arm_alone(
    slot: ModelSlot, store: Valkey, tmp_path: Path
) -> None:
    ranked = open_model(
        build(tmp_path / "ranked", model_version="ranked", item_prefix="one", ranker=difference_ranker).directory
    )
    slot.current = replace(ranked, variant="champion")
    broken = {name: _failing(ranker) for name, ranker in ranked.rankers.items()}
    slot.further["challenger"] = replace(ranked, variant="challenger", rankers=broken)
    async with in_process(slot, store_url=store.url) as parts:
        for _ in range(5):
            assert (await ask(parts, "challenger")).degraded_reasons == (Degraded.RANKER_FAILED,)
            assert (await ask(parts)).source is Source.RANKED
        assert parts.statistics.breakers["ranker"] == "closed"
        assert parts.statistics.breakers["ranker:challenger"] == "open"
        del slot.further["challenger"]
        parts.recommender.forget_arm("challenger")
        assert "ranker:challenger" not in parts.statistics.breakers


def _failing(ranker: Any) -> Any:
    class Failing(type(ranker)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(ranker.__dict__)

        def score(self, batch: object) -> object:  # noqa: ARG002
            raise RuntimeError("planted")

    return Failing()


async def test_a_batch_holds_requests_of_one_model(slot: ModelSlot, store: Valkey) -> None:
    async with in_process(slot, store_url=store.url) as parts:
        batches: list[set[str]] = []
        arms = [parts.recommender._arms.of(model) for model in _models(slot)]
        for arm in arms:
            answers = arm.pipeline.answers

            async def noted(batch: Sequence[Any], answers: Any = answers) -> AsyncIterator[Any]:
                batches.append({request.model.version for request in batch})
                async for made in answers(batch):
                    yield made

            arm.pipeline.answers = noted  # type: ignore[method-assign]
        await asyncio.gather(*(ask(parts, name) for name in ["", "challenger"] * 20))
        assert all(len(versions) == 1 for versions in batches)
        # Requests of two models that come in turns still travel together with their own.
        assert len(batches) < 20


def _models(slot: ModelSlot) -> list[ServingModel]:
    assert slot.current is not None
    return [slot.current, *slot.further.values()]
