"""Both clients behind a common interface, so that every test of behaviour runs with both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tandem.client import AsyncTandemClient, Recommendations, ServingStatus, SimilarItems, TandemClient, TandemError
from tests.support.serving import PATIENCE_SECONDS

KINDS = ("sync", "async")


class InThread:
    """`TandemClient` with each call in a thread, because the servers of these tests run in the test's event loop."""

    def __init__(self, client: TandemClient) -> None:
        self.client = client

    async def recommend(self, *arguments: Any, **options: Any) -> Recommendations:
        return await asyncio.to_thread(self.client.recommend, *arguments, **options)

    async def similar_items(self, *arguments: Any, **options: Any) -> SimilarItems:
        return await asyncio.to_thread(self.client.similar_items, *arguments, **options)

    async def record_events(self, *arguments: Any, **options: Any) -> int:
        return await asyncio.to_thread(self.client.record_events, *arguments, **options)

    async def upsert_items(self, *arguments: Any, **options: Any) -> int:
        return await asyncio.to_thread(self.client.upsert_items, *arguments, **options)

    async def delete_items(self, *arguments: Any, **options: Any) -> int:
        return await asyncio.to_thread(self.client.delete_items, *arguments, **options)

    async def status(self, **options: Any) -> ServingStatus:
        return await asyncio.to_thread(self.client.status, **options)

    async def wait_until_ready(self, timeout_seconds: float) -> None:
        await asyncio.to_thread(self.client.wait_until_ready, timeout_seconds)

    async def pages(self, *arguments: Any, **options: Any) -> AsyncIterator[Recommendations]:
        async for page in _in_thread(self.client.pages(*arguments, **options)):
            yield page

    async def recommend_all(self, *arguments: Any, **options: Any) -> list[Recommendations | TandemError]:
        return await asyncio.to_thread(self.client.recommend_all, *arguments, **options)

    async def recommend_many(self, requests: Any, **options: Any) -> AsyncIterator[Any]:
        async for outcome in _in_thread(self.client.recommend_many(requests, **options)):
            yield outcome

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


AnyClient = InThread | AsyncTandemClient


@asynccontextmanager
async def connected(kind: str, address: str, **settings: Any) -> AsyncIterator[AnyClient]:
    """A client, "sync" or "async", by default with a deadline that only a hanging server misses."""
    settings = {"deadline_ms": PATIENCE_SECONDS * 1e3, **settings}
    client = InThread(TandemClient(address, **settings)) if kind == "sync" else AsyncTandemClient(address, **settings)
    try:
        yield client
    finally:
        await client.close()


async def _in_thread(iterator: Any) -> AsyncIterator[Any]:
    end = object()
    try:
        while (value := await asyncio.to_thread(next, iterator, end)) is not end:
            yield value
    finally:
        await asyncio.to_thread(iterator.close)
