"""Requests carry every argument, and results carry every field of the response."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tandem.client import (
    AsyncTandemClient,
    AttributePredicate,
    Filter,
    Query,
    Reason,
    RecommendedItem,
    Source,
    TandemClient,
)
from tandem.client.query import QueryOptions, recommend_request
from tandem.v1 import recommendation_pb2 as pb
from tests.tandem.client.both_clients import connected
from tests.tandem.client.scripted_server import answers, scripted

FILTER = Filter(
    include_categories=["drama"],
    exclude_categories=("noir",),
    exclude_item_ids=["item-1"],
    attributes=[
        AttributePredicate(name="colour", any_of=["red"], none_of=["blue"]),
        AttributePredicate(name="price", min=0.0, max=9.5),
    ],
)
WIRE_FILTER = pb.RecommendFilter(
    include_categories=["drama"],
    exclude_categories=["noir"],
    exclude_item_ids=["item-1"],
    attributes=[
        pb.AttributePredicate(name="colour", any_of=["red"], none_of=["blue"]),
        pb.AttributePredicate(name="price", min=0.0, max=9.5),
    ],
)
ITEMS = [
    pb.RecommendedItem(
        item_id="a",
        score=0.5,
        reason=pb.Reason(
            source="two_tower", because_item_ids=["b"], score_parts={"blend": 0.5}, title="A", propensity=1.0
        ),
    ),
    pb.RecommendedItem(item_id="c", score=0.25),
]
READ_ITEMS = (
    RecommendedItem(
        item_id="a",
        score=0.5,
        reason=Reason(
            source="two_tower", because_item_ids=("b",), score_parts={"blend": 0.5}, title="A", propensity=1.0
        ),
    ),
    RecommendedItem(item_id="c", score=0.25, reason=None),
)


@pytest.mark.process
async def test_every_argument_of_recommend_is_sent_and_every_field_read(kind: str) -> None:
    step = answers(
        request_id="r",
        items=ITEMS,
        model_version="m",
        variant="champion",
        source=pb.RECOMMENDATION_SOURCE_RANKED,
        degraded_reasons=["store_timeout"],
        next_page_token="t2",
        warnings=["w"],
    )
    async with scripted(step) as server, connected(kind, server.address) as client:
        answer = await client.recommend(
            "u",
            num_items=3,
            recent_item_ids=["x", "y"],
            filter=FILTER,
            exclude_seen=False,
            diversity=0.0,
            explain=True,
            scenario="home",
            page_token="t",
            context={"device": "phone"},
        )
    assert server.attempts[0].request == pb.RecommendRequest(
        user_id="u",
        num_items=3,
        recent_item_ids=["x", "y"],
        context={"device": "phone"},
        filter=WIRE_FILTER,
        exclude_seen=False,
        diversity=0.0,
        explain=True,
        page_token="t",
        scenario="home",
    )
    assert (answer.request_id, answer.model_version, answer.variant) == ("r", "m", "champion")
    assert (answer.items, answer.item_ids) == (READ_ITEMS, ("a", "c"))
    assert (answer.source, answer.degraded_reasons, answer.next_page_token) == (Source.RANKED, ("store_timeout",), "t2")
    assert answer.warnings == ("w",)


@pytest.mark.process
async def test_defaults_are_those_of_the_server(kind: str) -> None:
    async with scripted(answers()) as server, connected(kind, server.address) as client:
        await client.recommend()
    assert server.attempts[0].request == pb.RecommendRequest(num_items=10, exclude_seen=True)


@pytest.mark.process
async def test_similar_items(kind: str) -> None:
    step = answers(request_id="r", items=ITEMS, model_version="m", variant="champion", warnings=["w"])
    async with scripted(step) as server, connected(kind, server.address) as client:
        answer = await client.similar_items(["x"], num_items=2, filter=FILTER, explain=True)
    assert server.attempts[0].request == pb.SimilarItemsRequest(
        item_ids=["x"], num_items=2, filter=WIRE_FILTER, explain=True
    )
    assert (answer.request_id, answer.model_version, answer.variant) == ("r", "m", "champion")
    assert (answer.items, answer.item_ids, answer.warnings) == (READ_ITEMS, ("a", "c"), ("w",))


@pytest.mark.process
async def test_pages_follow_the_token_to_the_end(kind: str) -> None:
    script = answers(next_page_token="t1"), answers(next_page_token="t2"), answers()
    async with scripted(*script) as server, connected(kind, server.address) as client:
        pages = [page async for page in client.pages("u", num_items=5, scenario="home", context={"a": "b"})]
    assert [page.next_page_token for page in pages] == ["t1", "t2", ""]
    sent = [attempt.request for attempt in server.attempts]
    assert [request.page_token for request in sent] == ["", "t1", "t2"]
    assert {(r.user_id, r.num_items, r.scenario, r.context["a"]) for r in sent} == {("u", 5, "home", "b")}


@pytest.mark.process
async def test_pages_are_bounded_and_requested_one_by_one(kind: str) -> None:
    async with scripted(answers(next_page_token="more")) as server, connected(kind, server.address) as client:
        pages = client.pages("u", max_pages=3)
        await anext(pages)
        assert len(server.attempts) == 1
        assert len([page async for page in pages]) == 2
        assert len(server.attempts) == 3


@pytest.mark.process
async def test_status_before_the_first_bundle(kind: str) -> None:
    step = answers(
        uptime_seconds=1.5,
        breakers={"store": "open"},
        worker=1,
        num_workers=2,
        policies_fingerprint="f",
        live_catalogue=pb.LiveCatalogue(items=3, age_seconds=0.5),
    )
    async with scripted(step) as server, connected(kind, server.address) as client:
        status = await client.status()
    assert (status.model_version, status.model_loaded_at, status.started_at) == ("", None, None)
    assert (status.uptime_seconds, status.breakers, status.worker, status.num_workers) == (1.5, {"store": "open"}, 1, 2)
    assert status.policies_fingerprint == "f"
    assert (status.live_catalogue.items, status.live_catalogue.age_seconds) == (3, 0.5)


@pytest.mark.process
async def test_times_are_utc(kind: str) -> None:
    wire = pb.GetServingStatusResponse()
    wire.started_at.FromSeconds(1_700_000_000)
    step = answers(started_at=wire.started_at)
    async with scripted(step) as server, connected(kind, server.address) as client:
        assert (await client.status()).started_at == datetime.fromtimestamp(1_700_000_000, tz=UTC)


@pytest.mark.process
async def test_every_source_is_named_and_an_unknown_source_is_unspecified(kind: str) -> None:
    sources = dict(pb.RecommendationSource.items())
    assert {name.removeprefix("RECOMMENDATION_SOURCE_") for name in sources} == {str(source) for source in Source}
    numbers = [*sources.values(), 99]
    script = [answers(source=number) for number in numbers]
    async with scripted(*script) as server, connected(kind, server.address) as client:
        read = [(await client.recommend()).source for _ in numbers]
    assert read == [*(Source(name.removeprefix("RECOMMENDATION_SOURCE_")) for name in sources), Source.UNSPECIFIED]


@pytest.mark.parametrize(
    "query",
    [
        Query(recent_item_ids="item-1"),
        Query(filter=Filter(include_categories="drama")),
        Query(filter=Filter(exclude_categories="drama")),
        Query(filter=Filter(exclude_item_ids="item-1")),
        Query(filter=Filter(attributes=[AttributePredicate(name="a", any_of="x")])),
        Query(filter=Filter(attributes=[AttributePredicate(name="a", none_of="x")])),
    ],
)
def test_a_string_is_not_a_list_of_strings(query: Query) -> None:
    with pytest.raises(TypeError, match="a list of texts, not the text"):
        recommend_request(query)


def test_every_field_of_the_api_is_an_argument() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Query)}
    assert set(fields) == set(pb.RecommendRequest.DESCRIPTOR.fields_by_name)
    assert set(QueryOptions.__annotations__) == set(fields) - {"user_id", "page_token"}
    for message, kind in ((pb.RecommendFilter, Filter), (pb.AttributePredicate, AttributePredicate)):
        assert {field.name for field in dataclasses.fields(kind)} == set(message.DESCRIPTOR.fields_by_name)
    for method in (TandemClient.recommend, AsyncTandemClient.recommend):
        given: dict[str, Any] = dict(inspect.signature(method).parameters)
        assert set(given) - {"self", "deadline_ms"} == set(fields)
        assert [n for n, d in fields.items() if n != "context" and given[n].default != d] == []


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type[Any]) -> dict[str, list[str]]:
        public = {name: value for name, value in vars(client).items() if not name.startswith("_")}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items()}

    assert calls(TandemClient) == calls(AsyncTandemClient)


@pytest.mark.process
def test_a_fresh_interpreter_loads_grpc_and_protobuf_and_nothing_heavier() -> None:
    program = "import sys, tandem.client; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    bare = "import sys, grpc, grpc.aio; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    known = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, timeout=60, check=True)
    outside = {name for name in set(done.stdout.split()) - set(known.stdout.split()) if name.isidentifier()}
    assert outside - sys.stdlib_module_names <= {"google", "grpc_health", "tandem"}
