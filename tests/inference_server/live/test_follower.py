"""Changes in a real Valkey, and their effect on a worker's answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from inference_server.live.follower import LiveFollower
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from inference_server.store.user_store import UserStore
from inference_server.telemetry.statistics import Statistics
from tandem.contract.live_items import items_feed
from tandem.contract.store import TrendingItems, trending_key
from tandem.contract.vocabulary import id_keys
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.live.feeds import Feeds
from tests.inference_server.live.scenarios import over_index
from tests.inference_server.wire_errors import refused
from tests.support.serving import Valkey, valkey, wait_until
from tests.support.tiny_bundle import difference_ranker, state_of, vector_ranker

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

NUM_ITEMS = 200
HISTORY = ["item-3", "item-14", "item-15"]


@dataclass(frozen=True, kw_only=True)
class Live:
    """A worker's parts and a follower of the live catalogue, which polls when a test tells it to."""

    parts: Parts
    follower: LiveFollower
    feeds: Feeds
    statistics: Statistics
    opened: ServingModel

    @property
    def model(self) -> ServingModel:
        model = self.parts.models.current
        assert model is not None
        return model

    def vector(self, item_id: str) -> np.ndarray:
        """The vector of an item of the bundle."""
        vectors: np.ndarray = np.array(self.opened.bundle.item_vectors[int(item_id.removeprefix("item-"))])
        return vectors

    async def recommend(self, **fields: Any) -> pb.RecommendResponse:
        response: pb.RecommendResponse = await self.parts.stub.Recommend(pb.RecommendRequest(**fields))
        return response

    async def ids(self, **fields: Any) -> list[str]:
        return [item.item_id for item in (await self.recommend(**fields)).items]

    async def similar(self, *item_ids: str, **fields: Any) -> list[str]:
        response = await self.parts.stub.SimilarItems(pb.SimilarItemsRequest(item_ids=item_ids, **fields))
        return [item.item_id for item in response.items]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@asynccontextmanager
async def following(
    server: Valkey, model: ServingModel, *, max_items: int = 1000, policies_file: Path | None = None
) -> AsyncIterator[Live]:
    """A worker's parts over an empty store."""
    statistics, slot = Statistics(), ModelSlot()
    async with server.client() as client:
        await client.flushall()
        await server.put("u", state_of(HISTORY))
        store = UserStore(server.url, statistics)
        try:
            follower = LiveFollower(store, slot, statistics, max_items=max_items)
            await follower.prepare(model)
            await follower.serve(model)
            async with in_process(slot, store_url=server.url, policies_file=policies_file) as parts:
                yield Live(
                    parts=parts,
                    follower=follower,
                    feeds=Feeds(client, model.version),
                    statistics=statistics,
                    opened=model,
                )
        finally:
            await store.close()


@pytest.fixture
def newer(tmp_path: Path) -> ServingModel:
    """Another bundle of the same items, which has merged no change."""
    return open_model(build(tmp_path / "newer", model_version="newer", seed=3).directory)


@pytest_asyncio.fixture(loop_scope="module", params=["exact", "index"])
async def live(request: pytest.FixtureRequest, server: Valkey, model: ServingModel) -> AsyncIterator[Live]:
    async with following(server, model if request.param == "exact" else over_index(model)) as running:
        yield running


async def test_a_new_item_is_recommended_to_the_users_of_its_nearest_neighbours(live: Live) -> None:
    await live.feeds.change("new", live.vector("item-7"), categories=["drama"])
    await live.follower.poll()
    first = (await live.recommend(recent_item_ids=["item-7"], explain=True)).items[0]
    assert first.item_id == "new"
    assert first.reason.source == "two_tower"
    assert first.reason.title == "new at 1"
    assert list(first.reason.because_item_ids) == ["item-7"]
    assert first.score == pytest.approx(1.0, abs=1e-5)
    assert (await live.similar("item-7"))[0] == "new"


async def test_it_waits_for_the_vector_made_from_this_very_change(live: Live) -> None:
    sequence = await live.feeds.change("new")
    await live.follower.poll()
    assert live.model.live.num_waiting == 1
    await refused(live.similar("new"), grpc.StatusCode.NOT_FOUND)
    await live.feeds.vector("new", sequence, live.vector("item-7"))
    await live.follower.poll()
    assert (await live.ids(recent_item_ids=["item-7"]))[0] == "new"
    newer = await live.feeds.change("new")
    await live.follower.poll()
    assert "new" not in await live.ids(recent_item_ids=["item-7"])
    await live.feeds.vector("new", newer, live.vector("item-8"))
    await live.follower.poll()
    assert (await live.ids(recent_item_ids=["item-8"]))[0] == "new"


async def test_a_changed_item_has_its_new_vector_and_data_in_its_old_place(live: Live) -> None:
    await live.feeds.change("item-5", live.vector("item-7"), categories=["opera"])
    await live.follower.poll()
    assert (await live.ids(recent_item_ids=["item-7"]))[0] == "item-5"
    assert "item-5" not in (await live.ids(recent_item_ids=["item-6"], num_items=1))
    opera = pb.RecommendFilter(include_categories=["opera"])
    assert await live.ids(user_id="u", filter=opera) == ["item-5"]
    assert await live.ids(filter=opera) == ["item-5"]


async def test_clicks_on_live_items_are_history_like_others(live: Live) -> None:
    await live.feeds.change("new", live.vector("item-7"))
    await live.follower.poll()
    expected = await live.ids(recent_item_ids=["item-7"], num_items=20)
    got = await live.ids(recent_item_ids=["new"], num_items=20)
    assert got[0] == "item-7"
    assert [item for item in got if item != "item-7"] == [item for item in expected if item != "new"]
    reason = (await live.recommend(recent_item_ids=["new"], explain=True)).items[0].reason
    assert list(reason.because_item_ids) == ["new"]


async def test_seen_and_excluded_live_items_are_left_out(live: Live, server: Valkey) -> None:
    await live.feeds.change("new", live.vector("item-7"))
    await live.follower.poll()
    await server.put("fan", state_of(["item-7", "new"]))
    assert "new" not in await live.ids(user_id="fan", num_items=500)
    assert "new" in await live.ids(user_id="fan", num_items=500, exclude_seen=False)
    excluded = pb.RecommendFilter(exclude_item_ids=["new", "item-9"])
    assert not {"new", "item-9"} & set(await live.ids(user_id="u", num_items=500, filter=excluded))
    assert "new" not in await live.similar("new", num_items=500)


@pytest.mark.parametrize("fields", [{"deleted": True}, {"available": False}])
async def test_what_is_gone_is_never_recommended_again(live: Live, server: Valkey, fields: dict[str, bool]) -> None:
    everything = {f"item-{row}" for row in range(NUM_ITEMS)} | {"new"}
    await live.feeds.change("new", live.vector("item-7"))
    await live.follower.poll()
    nobody = {"num_items": 500, "exclude_seen": False}
    assert set(await live.ids(**nobody)) == everything
    popular = await live.ids(num_items=3)
    gone = {*popular, "item-7", "new"}
    for item_id in gone:
        await live.feeds.change(item_id, **fields)
    await live.follower.poll()
    rare = pb.RecommendFilter(include_categories=["rare"])
    for asked in ({}, {"user_id": "u"}, {"recent_item_ids": ["item-7"]}, {"user_id": "u", "diversity": 0.5}):
        assert set(await live.ids(**nobody, **asked)) == everything - gone
        assert not gone & set(await live.ids(num_items=10, **asked))
        assert not gone & set(await live.ids(num_items=500, filter=rare, **asked))
    assert set(await live.similar("item-7", num_items=500)) == everything - gone, "it may be asked about"


async def test_what_is_gone_may_come_back(live: Live) -> None:
    await live.feeds.change("item-7", available=False)
    await live.follower.poll()
    assert "item-7" not in await live.ids(num_items=500)
    await live.feeds.change("item-7", live.vector("item-7"))
    await live.follower.poll()
    assert "item-7" in await live.ids(num_items=500)
    assert (await live.ids(user_id="u", num_items=500)).count("item-7") == 1


async def test_pages_repeat_nothing_whatever_changes_between_them(live: Live) -> None:
    for number in range(4):
        await live.feeds.change(f"new-{number}", live.vector(f"item-{number}"))
    await live.follower.poll()
    shown: list[str] = []
    token = ""
    for number in range(30):
        response = await live.recommend(user_id="u", exclude_seen=False, num_items=20, page_token=token)
        shown += [item.item_id for item in response.items]
        if not (token := response.next_page_token):
            break
        # A shown item gets another vector, an item nearer than all others is added, and an item is deleted.
        await live.feeds.change(shown[0], live.vector("item-14"))
        await live.feeds.change(f"later-{number}", live.vector("item-3"))
        await live.feeds.change(f"item-{number + 100}", deleted=True)
        await live.follower.poll()
    assert len(shown) == len(set(shown))
    assert {f"new-{number}" for number in range(4)} <= set(shown)


async def test_a_page_token_is_good_for_a_worker_that_knows_less(live: Live, server: Valkey) -> None:
    await live.feeds.change("early", live.vector("item-3"))
    await live.follower.poll()
    slow = live.model
    await live.feeds.change("late", live.vector("item-3"))
    await live.follower.poll()
    first = await live.recommend(user_id="u", num_items=2)
    assert {item.item_id for item in first.items} == {"early", "late"}
    knowing = live.model
    live.parts.models.current = slow
    second = await live.recommend(user_id="u", num_items=2, page_token=first.next_page_token)
    live.parts.models.current = knowing
    third = await live.recommend(user_id="u", num_items=500, page_token=second.next_page_token)
    assert not {"early", "late"} & {item.item_id for item in (*second.items, *third.items)}


async def test_the_last_catalogue_serves_on_while_the_store_is_away(live: Live, server: Valkey) -> None:
    await live.feeds.change("new", live.vector("item-7"))
    await live.feeds.change("item-9", deleted=True)
    await live.follower.poll()
    await server.kill()
    following = asyncio.create_task(live.follower.run())
    try:
        await wait_until(lambda: not live.statistics.dependencies_up["store"], "the follower sees that it is down")
        found = await live.ids(recent_item_ids=["item-7"], num_items=500)
        assert found[0] == "new"
        assert "item-9" not in found
        live.follower.bring_up_to_date()
        assert live.statistics.live_items == 1
    finally:
        await server.start()
    await live.feeds.change("item-10", deleted=True)

    async def is_gone() -> bool:
        return "item-10" not in await live.ids(num_items=500)

    await wait_until(is_gone, "changes are followed again")
    following.cancel()


async def test_statistics(live: Live) -> None:
    await live.feeds.change("new", live.vector("item-7"))
    await live.feeds.change("item-9", deleted=True)
    await live.feeds.change("waits")
    await live.follower.poll()
    live.follower.bring_up_to_date()
    statistics = live.statistics
    assert statistics.live_age_seconds < 60.0
    assert (statistics.live_items, statistics.live_dead_rows, statistics.live_waiting) == (1, 1, 1)
    assert (statistics.live_put_off, statistics.live_sequence) == (0, 3)
    assert statistics.live_lag_seconds.count == 2


async def test_entries_that_cannot_be_read_have_no_effect(live: Live, server: Valkey) -> None:
    await live.feeds.change("item-9", deleted=True)
    async with server.client() as client:
        feed = items_feed()
        for index, (item_id, value) in enumerate([("broken", b"{"), ("item-8", b'{"format":99}')]):
            await client.hset(feed.values.decode(), item_id, value)
            await client.zadd(feed.changes.decode(), {item_id: 100 + index})
        await client.set(feed.sequence, 102)
        await client.zadd(feed.changes.decode(), {"taken out of the feed meanwhile": 102})
    await live.feeds.vector("item-10", 1, np.zeros(3, dtype=np.float32))
    await live.follower.poll()
    assert len(await live.ids(num_items=500)) == NUM_ITEMS - 1


async def test_a_feed_that_began_anew_is_read_from_its_start(live: Live, server: Valkey) -> None:
    for item_id in ("item-1", "item-2", "item-3"):
        await live.feeds.change(item_id, deleted=True)
    await live.follower.poll()
    async with server.client() as client:
        await client.flushall()
        again = Feeds(client, live.opened.version)
        await again.change("item-4", deleted=True)
        await again.change("new", live.vector("item-7"))
        await live.follower.poll()
    expected = {f"item-{row}" for row in range(NUM_ITEMS)} - {"item-4"} | {"new"}
    assert set(await live.ids(num_items=500)) == expected


async def test_what_is_known_stays_where_the_store_was_emptied_and_numbers_go_on(live: Live, server: Valkey) -> None:
    await live.feeds.change("item-1", deleted=True)
    await live.feeds.change("before", live.vector("item-7"))
    await live.follower.poll()
    async with server.client() as client:
        await client.flushall()
        await live.follower.poll()
        again = Feeds(client, live.opened.version, after=2)
        await again.change("item-4", deleted=True)
        await again.change("after", live.vector("item-7"))
        await live.follower.poll()
    expected = {f"item-{row}" for row in range(NUM_ITEMS)} - {"item-1", "item-4"} | {"before", "after"}
    assert set(await live.ids(num_items=500)) == expected


async def test_beyond_the_limit_the_oldest_wait_and_nothing_gone_comes_back(
    server: Valkey, model: ServingModel
) -> None:
    async with following(server, model, max_items=2) as live:
        for number in range(5):
            await live.feeds.change(f"new-{number}", live.vector("item-7"))
        await live.feeds.change("item-5", live.vector("item-7"))
        for number in range(20, 25):
            await live.feeds.change(f"item-{number}", deleted=True)
        await live.feeds.change("new-9", live.vector("item-7"))
        await live.follower.poll()
        assert set(await live.ids(num_items=500)) == (
            {f"item-{row}" for row in range(NUM_ITEMS) if row not in range(20, 25)} | {"new-9"}
        )
        live.follower.bring_up_to_date()
        assert live.statistics.live_put_off == 6


async def test_many_changes_come_in_pieces(server: Valkey, model: ServingModel) -> None:
    async with following(server, model) as live:
        for number in range(150):
            await live.feeds.change(f"item-{number}", deleted=True)
        assert await live.follower.poll()
        assert len(await live.ids(num_items=500)) == NUM_ITEMS - 150


class TestBundles:
    async def test_what_is_gone_is_gone_from_the_first_answer_of_a_new_bundle(
        self, server: Valkey, model: ServingModel, tmp_path: Path
    ) -> None:
        """The new bundle has merged the first change alone, and no vectors were made for it yet."""
        newer = open_model(build(tmp_path / "newer", model_version="newer", seed=3, catalogue_sequence=1).directory)
        async with following(server, model) as live:
            await live.feeds.change("item-8", deleted=True)
            await live.feeds.change("item-9", deleted=True)
            await live.follower.prepare(newer)
            await live.feeds.change("item-10", deleted=True)
            await live.follower.serve(newer)
            found = set(await live.ids(num_items=500))
            assert live.model.version == "newer"
            assert found == {f"item-{row}" for row in range(NUM_ITEMS)} - {"item-9", "item-10"}, (
                "its own item-8 came after the first change"
            )

    async def test_live_items_need_vectors_of_the_new_bundle(
        self, server: Valkey, model: ServingModel, newer: ServingModel
    ) -> None:
        async with following(server, model) as live, server.client() as client:
            sequence = await live.feeds.change("new", live.vector("item-7"))
            await live.follower.prepare(newer)
            await live.follower.serve(newer)
            assert "new" not in await live.ids(num_items=500)
            vector = np.array(newer.bundle.item_vectors[12])
            await Feeds(client, "newer").vector("new", sequence, vector)
            await live.follower.poll()
            assert (await live.ids(recent_item_ids=["item-12"]))[0] == "new"

    async def test_a_new_bundle_waits_for_its_vectors_of_what_is_live(
        self, server: Valkey, model: ServingModel, tmp_path: Path
    ) -> None:
        newer = open_model(build(tmp_path / "newer", model_version="newer", seed=3, catalogue_sequence=1).directory)
        async with following(server, model) as live, server.client() as client:
            await live.feeds.change("item-8", live.vector("item-9"))  # the newer bundle has it
            await live.feeds.change("item-9", deleted=True)
            sequence = await live.feeds.change("new", live.vector("item-7"))
            await live.feeds.change("not-live-yet")
            await live.follower.poll()
            preparing = asyncio.create_task(live.follower.prepare(newer))
            await asyncio.sleep(1.0)
            assert not preparing.done()
            await live.feeds.change("newest", live.vector("item-6"))
            await live.follower.poll()
            assert "newest" in await live.ids(num_items=500), "the serving bundle is followed meanwhile"
            vector = np.array(newer.bundle.item_vectors[12])
            feeds = Feeds(client, "newer")
            await feeds.vector("new", sequence, vector)
            await feeds.vector("newest", sequence + 2, vector)
            await asyncio.wait_for(preparing, 10)
            await live.follower.serve(newer)
            found = await live.ids(num_items=500)
            assert {"new", "newest"} < set(found)
            assert not {"item-9", "not-live-yet"} & set(found)

    async def test_it_does_not_wait_for_what_its_tower_does_not_know(
        self, server: Valkey, model: ServingModel, newer: ServingModel
    ) -> None:
        async with following(server, model) as live, server.client() as client:
            sequence = await live.feeds.change("new", live.vector("item-7"))
            await live.follower.poll()
            await Feeds(client, "newer").follow(sequence)
            async with asyncio.timeout(10):
                await live.follower.prepare(newer)

    async def test_it_does_not_wait_for_ever(
        self, server: Valkey, model: ServingModel, newer: ServingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inference_server.live.follower._MAX_HAND_OVER_SECONDS", 0.5)
        async with following(server, model) as live:
            await live.feeds.change("new", live.vector("item-7"))
            await live.follower.poll()
            async with asyncio.timeout(10):
                await live.follower.prepare(newer)
            await live.follower.serve(newer)
            assert "new" not in await live.ids(num_items=500)

    async def test_the_bundle_before_comes_back_with_everything_known(
        self, server: Valkey, model: ServingModel, tmp_path: Path
    ) -> None:
        newer = open_model(build(tmp_path / "newer", model_version="newer", seed=3, catalogue_sequence=2).directory)
        async with following(server, model) as live:
            await live.feeds.change("item-8", deleted=True)
            await live.feeds.change("new", live.vector("item-7"))
            await live.follower.prepare(newer)
            await live.follower.serve(newer)
            assert {"item-8"} < set(await live.ids(num_items=500))
            await live.feeds.change("newest", live.vector("item-6"))
            await live.feeds.change("item-9", deleted=True)
            await live.follower.poll()
            assert "newest" not in await live.ids(num_items=500)
            await live.follower.serve(model)
            expected = {f"item-{row}" for row in range(NUM_ITEMS)} - {"item-8", "item-9"} | {"new", "newest"}
            assert set(await live.ids(num_items=500)) == expected

    async def test_an_older_bundle_that_is_opened_later_learns_of_older_changes(
        self, server: Valkey, tmp_path: Path
    ) -> None:
        newer = open_model(build(tmp_path / "newer", model_version="newer", catalogue_sequence=2).directory)
        older = open_model(build(tmp_path / "older", model_version="older").directory)
        async with following(server, newer) as live:
            await live.feeds.change("item-8", deleted=True)
            await live.feeds.change("item-9", deleted=True)
            await live.feeds.change("item-10", deleted=True)
            await live.follower.poll()
            assert len(await live.ids(num_items=500)) == NUM_ITEMS - 1
            await live.follower.prepare(older)
            await live.follower.serve(older)
            live.follower.forget(newer)
            assert len(await live.ids(num_items=500)) == NUM_ITEMS - 3

    async def test_the_store_may_be_away_while_a_bundle_opens(self, server: Valkey, tmp_path: Path) -> None:
        model = open_model(build(tmp_path / "bundle", model_version="late").directory)
        async with following(server, model) as live:
            await live.feeds.change("item-8", deleted=True)
            await live.follower.poll()
            await server.kill()
            newer = open_model(build(tmp_path / "newer", model_version="newer").directory)
            await live.follower.prepare(newer)
            await live.follower.serve(newer)
            assert "item-8" not in await live.ids(num_items=500), "it is known from before"
            await server.start()


class TestRankers:
    async def test_a_new_item_is_placed_where_items_of_its_score_are(self, server: Valkey, tmp_path: Path) -> None:
        """The blend ranks it neither behind nor before all items that have content and neighbours."""
        model = open_model(build(tmp_path / "blend", content_weight=0.3, item_item_weight=0.5).directory)
        async with following(server, model) as live:
            before = await live.recommend(user_id="u", num_items=300, explain=True)
            towers = {item.item_id: item.reason.score_parts["two_tower"] for item in before.items}
            best, worst = max(towers, key=towers.__getitem__), min(towers, key=towers.__getitem__)
            await live.feeds.change("best", live.vector(best))
            await live.feeds.change("worst", live.vector(worst))
            await live.follower.poll()
            after = await live.recommend(user_id="u", num_items=300, explain=True)
            positions = {item.item_id: position for position, item in enumerate(after.items)}
            assert positions["best"] < positions["worst"]
            assert 0 < positions["best"] < 100
            reason = after.items[positions["best"]].reason
            assert reason.score_parts.keys() == {"two_tower"}, "its other parts are unknown"
            assert after.source == pb.RECOMMENDATION_SOURCE_RANKED
            bundle_items = [item for item in after.items if item.item_id not in {"best", "worst"}]
            assert [item.item_id for item in bundle_items] == [item.item_id for item in before.items]

    @pytest.mark.parametrize("ranker", [difference_ranker, vector_ranker])
    async def test_an_onnx_ranker_reads_what_it_reads_of_an_unknown_item(
        self, server: Valkey, tmp_path: Path, ranker: Any
    ) -> None:
        model = open_model(build(tmp_path / "onnx", content_weight=0.3, ranker=ranker).directory)
        async with following(server, model) as live:
            vector = live.vector("item-7")
            await live.feeds.change("new", vector)
            await live.follower.poll()
            response = await live.recommend(recent_item_ids=["item-7"], num_items=200, explain=True)
            (item,) = [item for item in response.items if item.item_id == "new"]
            assert item.reason.score_parts.keys() == {"two_tower", "ranker"}
            # The difference ranker subtracts the two-tower score from the content score, here its mean, 0. The vector
            # ranker adds up popularity, index and product of the vectors: 0, 0 and 1.
            assert item.score == pytest.approx(-1.0 if ranker is difference_ranker else 1.0, abs=1e-4)

    async def test_boosts_caps_and_trending_know_live_items(self, server: Valkey, tmp_path: Path) -> None:
        policies = tmp_path / "policies.yaml"
        policies.write_text(
            "default:\n  boosts:\n    - {category: opera, add: 100}\n  category_caps: {opera: 2}\n"
            "  sources: {two_tower: 20, trending: 5, popular: 0}\n"
        )
        model = open_model(build(tmp_path / "bundle").directory)
        async with following(server, model, policies_file=policies) as live, server.client() as client:
            for number in range(4):
                await live.feeds.change(f"new-{number}", -live.vector("item-3"), categories=["opera"])
            await live.feeds.change("item-30", deleted=True)
            await live.follower.poll()
            keys = id_keys(["item-30", "new-0", "new-1", "new-2"])
            await client.set(trending_key(), TrendingItems(keys, np.arange(4, 0, -1, dtype=np.float32)).to_bytes())

            async def trending() -> list[pb.RecommendedItem]:
                response = await live.recommend(user_id="u", explain=True)
                return [item for item in response.items if item.reason.source == "trending"]

            found = await wait_until(trending, "the list of trending items is read")
            assert [item.item_id for item in found] == ["new-0", "new-1"], "capped at two"
            top = await live.ids(user_id="u", num_items=20)
            assert set(top[:2]) == {"new-0", "new-1"}
            assert not {"new-2", "new-3", "item-30"} & set(top)


async def test_every_model_in_force_follows_the_catalogue(
    server: Valkey, model: ServingModel, newer: ServingModel
) -> None:
    async with following(server, model) as live, server.client() as client:
        models = live.parts.models
        await live.follower.prepare(newer)
        await live.follower.serve(newer, variant="challenger", is_further=True)
        await live.follower.serve(newer, variant="17", is_further=True)
        feeds = Feeds(client, newer.version)
        sequence = await live.feeds.change("new", live.vector("item-7"), categories=["drama"])
        await live.follower.poll()

        def items(name: str) -> int:
            served = models.named(name) if name else models.current
            assert served is not None
            return served.live.num_recommendable

        assert (items(""), items("challenger"), items("17")) == (1, 0, 0), "each waits for the vectors of its own tower"
        await feeds.vector("new", sequence, np.array(newer.bundle.item_vectors[7]))
        await live.follower.poll()
        assert (items(""), items("challenger"), items("17")) == (1, 1, 1)
        challenger, same = models.named("challenger"), models.named("17")
        assert challenger is not None
        assert same is not None
        assert (challenger.variant, same.variant) == ("challenger", "17")
        assert challenger.catalogue is same.catalogue, "it is merged once"
        own, before = models.current, challenger
        await live.follower.poll()
        assert models.current is own, "without news nothing is made anew"
        assert models.named("challenger") is before
        await live.feeds.change("item-7", deleted=True)
        await live.follower.poll()
        for name in ("", "challenger", "17"):
            served = models.named(name) if name else models.current
            assert served is not None
            assert len(served.live.dead) == 1
        live.follower.withdraw("challenger")
        await live.feeds.change("item-8", deleted=True)
        await live.follower.poll()
        assert models.named("challenger") is None
        assert len(models.further["17"].live.dead) == 2
