"""Reads a feed of the online store from where it was left, in pieces that keep nobody waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from inference_server.store.user_store import ReadsFeeds
from tandem.contract.live_items import Feed

_PIECE: Final = 64
"""Entries read and parsed at once: about a millisecond."""
_REST: Final = 3.0
"""After a piece the event loop has so many times its time for requests: a catalogue that is written anew as a whole
takes a quarter of the worker, for as long as it lasts."""


class FeedReader:
    """Where one feed was left."""

    def __init__(self, store: ReadsFeeds, feed: Feed, *, after: int = 0) -> None:
        """Begins with the entries whose sequence is higher than `after`."""
        self._store = store
        self._feed = feed
        self.position = after
        """The last sequence that was read."""

    @property
    def counter(self) -> bytes:
        """Key of the newest sequence."""
        return self._feed.sequence

    async def changed(self, until: int, most: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Item ids and values of the entries up to a sequence, in pieces; after about `most` of them the rest is left
        for the next time.

        An entry that changes meanwhile may come as it is then, and comes again. Raises StoreFailed.
        """
        num_read = 0
        while self.position < until and num_read < most:
            started = time.perf_counter()
            members = await self._store.changed_members(
                self._feed.changes, after=self.position, until=until, count=_PIECE
            )
            if members:
                values = await self._store.hash_values(self._feed.values, [member for member, _ in members])
                # An entry may have been taken out since: every bundle has merged it.
                yield [(item, value) for (item, _), value in zip(members, values, strict=True) if value is not None]
            self.position = members[-1][1] if len(members) == _PIECE else until
            num_read += len(members)
            await asyncio.sleep(_REST * (time.perf_counter() - started))
