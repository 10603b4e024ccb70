"""A retrieval source and a ranker that exist in this test alone, registered as the recipes say, in a real server.

The server is a copy of the program to which each recipe's file and registration are added, and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.support.serving import Server, serve, valkey

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

PROGRAM = Path(__file__).resolve().parents[3] / "inference_server"
HISTORY = ["item-3", "item-14", "item-15"]

SOURCE = '''
"""The last items of the catalogue."""

import numpy as np

from inference_server.request.sources.source import Source


class LastItemsSource(Source):
    name = "last_items"
    num_candidates = 0

    async def follow(self):
        raise RuntimeError("nothing to follow")

    def propose(self, encoded, num_candidates):
        last = encoded.model.catalogue.num_items - 1 - np.arange(num_candidates)
        rows = np.tile(last, (len(encoded.users), 1))
        match num_candidates:
            case 11:
                raise RuntimeError("a bug")
            case 12:
                return rows[0]
            case 13:
                return rows[:, :0].repeat(2, axis=0).repeat(2, axis=0)
            case 14:
                return rows.astype(np.float32)
            case 15:
                return rows + 1
            case 16:
                return -rows - 7
            case 17:
                return None
            case 18:
                rows.flags.writeable = False
                return rows.astype(np.int32)
        return rows
'''

RANKER = '''
"""Orders candidates by their row, the last one first."""

import numpy as np


class ByRowRanker:
    name = "by_row"
    runs_long = False
    reads = frozenset()

    @classmethod
    def open(cls, bundle):
        return cls()

    def with_content_weight(self, content_weight):
        return self

    def score(self, batch):
        match len(batch.rows[0]):
            case 31:
                raise RuntimeError("a bug")
            case 32:
                return batch.rows[0].astype(np.float32)
            case 33:
                return batch.rows
            case 34:
                return np.full(batch.rows.shape, np.nan, np.float32)
        return batch.rows.astype(np.float32)

    def parts(self, scores):
        return (("row", scores),)
'''

POLICIES = """
default: {ranker: blend}
scenarios:
  last: {ranker: by_row, sources: {two_tower: 1, item_item: 0, content_neighbours: 0, last_items: 4}}
  by_row: {ranker: by_row}
  automatic: {ranker: auto}
"""
POLICIES += "".join(
    f"  source_{count}: {{ranker: by_row, sources: {{two_tower: 40, last_items: {count}}}}}\n"
    for count in range(11, 19)
)
POLICIES += "".join(
    f"  ranker_{count}: {{ranker: by_row, sources: {{two_tower: {count}, item_item: 0, content_neighbours: 0}}}}\n"
    for count in range(31, 35)
)


def register(registry: Path, module: str, name: str) -> None:
    """The two halves of a registration: the import, and the line at the end of the table."""
    text = registry.read_text()
    assert text.count("\n)\n") == 1, "one table"
    text = text.replace("from typing import Final\n", f"from typing import Final\n\nfrom {module} import {name}\n")
    registry.write_text(text.replace("\n)\n", f"\n    {name},\n)\n"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("copy")
    program = folder / "inference_server"
    shutil.copytree(PROGRAM, program, ignore=shutil.ignore_patterns("__pycache__"))
    (program / "request/sources/last_items.py").write_text(SOURCE)
    register(program / "request/sources/registry.py", "inference_server.request.sources.last_items", "LastItemsSource")
    (program / "model/rankers/by_row.py").write_text(RANKER)
    register(program / "model/rankers/registry.py", "inference_server.model.rankers.by_row", "ByRowRanker")
    (folder / "policies.yaml").write_text(POLICIES)
    bundle = build(tmp_path_factory.mktemp("bundle") / "blend", content_weight=0.3)
    async with valkey(tmp_path_factory.mktemp("valkey")) as store:
        # `python -m` finds the copy first: it lies in the folder that the server is started in.
        running = serve(
            folder, bundle_path=bundle.directory, store_url=store.url, policies_file=folder / "policies.yaml"
        )
        async with running as server:
            yield server


async def test_the_source_proposes_and_says_so(server: Server) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=4, scenario="last", explain=True)
    assert [item.item_id for item in answer.items] == ["item-199", "item-198", "item-197", "item-196"]
    sources = [item.reason.source for item in answer.items]
    assert set(sources) <= {"last_items", "two_tower"}, "an item that the two towers propose too is theirs"
    assert sources.count("last_items") >= 3


async def test_a_source_that_is_off_proposes_nothing(server: Server) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=50, explain=True)
    assert "last_items" not in {item.reason.source for item in answer.items}


async def test_the_ranker_orders_and_explains(server: Server) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=50, scenario="by_row", explain=True)
    rows = [int(item.item_id.removeprefix("item-")) for item in answer.items]
    assert rows == sorted(rows, reverse=True)
    assert [item.reason.score_parts["row"] for item in answer.items] == rows
    assert (answer.source, list(answer.degraded_reasons)) == (pb.RECOMMENDATION_SOURCE_RANKED, [])


async def test_the_order_of_registration_is_the_order_of_preference(server: Server) -> None:
    automatic = await server.recommend(recent_item_ids=HISTORY, num_items=50, scenario="automatic")
    blended = await server.recommend(recent_item_ids=HISTORY, num_items=50)
    assert [item.item_id for item in automatic.items] == [item.item_id for item in blended.items]


@pytest.mark.parametrize(
    "count", range(11, 18), ids=["raises", "flat", "users", "floats", "beyond", "negative", "None"]
)
async def test_a_source_that_fails_is_left_out_with_a_reason(server: Server, count: int) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=5, scenario=f"source_{count}", explain=True)
    assert (answer.source, list(answer.degraded_reasons)) == (pb.RECOMMENDATION_SOURCE_RANKED, ["source_failed"])
    assert len(answer.items) == 5
    assert "last_items" not in {item.reason.source for item in answer.items}


async def test_rows_may_be_of_any_integer_type_and_read_only(server: Server) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=5, scenario="source_18", explain=True)
    assert list(answer.degraded_reasons) == []
    assert [item.item_id for item in answer.items] == [f"item-{row}" for row in range(199, 194, -1)]


@pytest.mark.parametrize("count", range(31, 35), ids=["raises", "flat", "integers", "NaN"])
async def test_a_ranker_that_fails_leaves_the_order_to_the_towers(server: Server, count: int) -> None:
    answer = await server.recommend(recent_item_ids=HISTORY, num_items=count, scenario=f"ranker_{count}")
    expected = (pb.RECOMMENDATION_SOURCE_RETRIEVED, ["ranker_failed"])
    assert (answer.source, list(answer.degraded_reasons)) == expected
    assert len(answer.items) == count


async def test_a_background_task_that_fails_is_logged(server: Server) -> None:
    line = await server.log("source_follow_failed", source="last_items")
    assert line["reason"] == "RuntimeError('nothing to follow')"
