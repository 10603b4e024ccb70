"""The registered sources. A new source is a module beside this one and a line here
(docs/contributing/add-a-retrieval-source.md)."""

from __future__ import annotations

from typing import Final

from inference_server.request.sources.content_neighbours import ContentNeighboursSource
from inference_server.request.sources.linear import ItemItemSource, SequentialSource
from inference_server.request.sources.popular import PopularSource
from inference_server.request.sources.source import Source
from inference_server.request.sources.trending import TrendingSource

SOURCES: Final[tuple[type[Source], ...]] = (
    ItemItemSource,
    SequentialSource,
    ContentNeighboursSource,
    TrendingSource,
    PopularSource,
)
"""In the order in which their candidates are merged: an item that several sources propose belongs to the first of them,
and to the two towers before any other."""
