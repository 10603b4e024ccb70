"""Retrieval: the items nearest to the user's vector, filtered inside the search."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.degradation import Source
from inference_server.stages.candidates import Candidates, allowed_items
from inference_server.stages.encode_user import Encoded

INLINE_SEARCH_MAX_ITEMS: Final = 50_000
"""Largest catalogue that is searched on the event loop itself. A hop to a thread and back costs about 50 microseconds
there; at this size and 64 dimensions a search takes 15 (8 lists of 256), or 300 where a filter makes it search all."""


async def retrieve(encoded: Encoded, vector: npt.NDArray[np.float32], threads: Executor) -> Candidates:
    """As many items as were asked for, whenever the filter leaves that many. `vector` is the user's, (dim,) float32."""
    index = encoded.admitted.model.index
    num_items = encoded.admitted.num_items
    allowed = allowed_items(encoded)
    if index.num_items <= INLINE_SEARCH_MAX_ITEMS:
        rows, scores = index.nearest(vector, num_items, allowed)
    else:
        loop = asyncio.get_running_loop()
        rows, scores = await loop.run_in_executor(threads, index.nearest, vector, num_items, allowed)
    return Candidates(encoded=encoded, source=Source.RETRIEVED, rows=rows, scores=scores)
