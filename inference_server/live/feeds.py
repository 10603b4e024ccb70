"""Reads a feed of the online store on from the last position, in chunks that do not hold up requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from inference_server.store.user_store import ReadsFeeds
from tandem.contract.live_items import Feed

_CHUNK: Final = 64
"""Number of entries read and parsed at once, which takes about a millisecond."""
_PAUSE_FACTOR: Final = 3.0
"""Pause after each chunk, as a multiple of the chunk's duration: following a full rewrite of the catalogue uses at most
a quarter of the worker."""


class FeedReader:
    """Reads one feed, and remembers its position."""

    def __init__(self, store: ReadsFeeds, feed: Feed, *, after: int = 0) -> None:
        """Starts with the entries whose sequence is higher than `after`."""
        self._store = store
        self._feed = feed
        self.position = after
        """Every entry up to this sequence has been read."""

    @property
    def counter(self) -> bytes:
        """Key of the feed's newest sequence in the store."""
        return self._feed.sequence

    async def changed(self, until: int, max_entries: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Item ids and values of the entries up to a sequence, in chunks. Stops after about `max_entries`; the next
        call goes on from there.

        An entry that changes during the read may come with its newer value, and then comes a second time. Raises
        StoreFailed.
        """
        num_read = 0
        while self.position < until and num_read < max_entries:
            started = time.perf_counter()
            members = await self._store.changed_members(
                self._feed.changes, after=self.position, until=until, count=_CHUNK
            )
            if members:
                values = await self._store.hash_values(self._feed.values, [member for member, _ in members])
                # An entry without a value was pruned in between, because every bundle has merged it.
                yield [(item, value) for (item, _), value in zip(members, values, strict=True) if value is not None]
            self.position = members[-1][1] if len(members) == _CHUNK else until
            num_read += len(members)
            await asyncio.sleep(_PAUSE_FACTOR * (time.perf_counter() - started))
