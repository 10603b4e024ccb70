"""Cost of live items per request: `python -m benchmarks.live_items [CATALOGUE ...]` prints ratios of processor time.

Runs the request path in this process, without network and store, with 32 requests in flight. Every half second the
model is swapped for the same model with another number of live items, so other work on the machine affects all of them
alike. Measures processor time, not requests per second, because the machine may be busy.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from benchmarks.synthetic.catalogues import SPECS, BuiltCatalogue, build
from inference_server.core.query import Query
from inference_server.live.changes import ItemChanges
from inference_server.live.merge import merge
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model, with_live
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.policy_choices import policy_choices
from inference_server.request.recommender import Recommender
from inference_server.store.user_store import Values
from inference_server.telemetry.statistics import Statistics
from tandem.contract.live_items import LiveItemVector
from tandem.contract.store import UserVector, user_state_key, user_vector_key
from tandem.contract.streams import AppliedItemChange, ItemChange
from tandem.contract.vocabulary import id_key

_NUM_LIVE: Final = (0, 500, 5_000)
_IN_FLIGHT: Final = 32
_NUM_USERS: Final = 2_000
_ROUNDS: Final = 20
_SETTLE_SECONDS: Final = 0.15
_MEASURE_SECONDS: Final = 0.4
_NOISE: Final = 0.05


class _Store:
    """An in-memory `store.ReadsStore` of users, nine in ten of whom have a vector."""

    def __init__(self, catalogue: BuiltCatalogue) -> None:
        self._values: dict[bytes, bytes] = {}
        version = catalogue.bundle.manifest.model_version
        for user in range(min(_NUM_USERS, len(catalogue.users))):
            user_id, state = (
                catalogue.users.user_id(user),
                catalogue.users.state(user, catalogue.bundle.item_vocabulary),
            )
            self._values[user_state_key(user_id)] = state.to_bytes()
            if user % 10:
                vector = UserVector(state.revision, catalogue.users.vectors[user])
                self._values[user_vector_key(version, user_id)] = vector.to_bytes()

    def read(self, keys: Sequence[bytes], patience_seconds: float) -> asyncio.Task[Values]:  # noqa: ARG002
        """See `store.ReadsStore`."""
        return asyncio.create_task(self._read(keys))

    absence = None
    """See `ReadsStore.absence`."""

    async def _read(self, keys: Sequence[bytes]) -> Values:
        return [self._values.get(key) for key in keys]


def with_live_items(model: ServingModel, num_live: int) -> ServingModel:
    """The model after `num_live` changes, alternating between the bundle's items and new items near those."""
    rng = np.random.default_rng(num_live)
    changes, vectors = ItemChanges(num_live), {}
    rows = rng.permutation(len(model.bundle.items))
    for sequence in range(1, num_live + 1):
        row = int(rows[sequence % len(rows)])
        item_id = f"new-{sequence}" if sequence % 2 else model.bundle.items.item_ids([row])[0]
        change = ItemChange(item_id=item_id, changed_at=0, title="changed", categories=("any",))
        changes.take([AppliedItemChange(sequence=sequence, slot=sequence, change=change)])
        vector = model.bundle.item_vectors[row] + _NOISE * rng.standard_normal(model.bundle.manifest.embedding_dim)
        vectors[id_key(item_id)] = LiveItemVector(sequence, (vector / np.linalg.norm(vector)).astype(np.float32))
    return with_live(model, merge(model.bundle, changes, vectors))


async def measure(catalogue: BuiltCatalogue, *, num_rounds: int = _ROUNDS) -> dict[int, list[float]]:
    """Microseconds of processor time per request: number of live items -> one figure per round."""
    opened = open_model(catalogue.bundle.directory, verify_checksums=False)
    models = {num_live: with_live_items(opened, num_live) for num_live in _NUM_LIVE}
    slot = ModelSlot()
    slot.current = opened
    admission = Admission(
        slot, PolicyFile(None, policy_choices()), max_concurrent_requests=_IN_FLIGHT, max_seconds=60.0
    )
    with ThreadPoolExecutor(2) as threads:
        recommender = Recommender(
            admission=admission, store=_Store(catalogue), threads=threads, statistics=Statistics()
        )
        await recommender.start()
        answered = count()

        async def ask(first: int) -> None:
            for user in count(first, _IN_FLIGHT + 1):
                user_id = catalogue.users.user_id(user % min(_NUM_USERS, len(catalogue.users)))
                await recommender.recommend(Query(user_id=user_id, num_items=10), None)
                next(answered)

        asking = [asyncio.create_task(ask(first)) for first in range(_IN_FLIGHT)]
        microseconds: dict[int, list[float]] = {num_live: [] for num_live in models}
        for _ in range(num_rounds):
            for num_live, model in models.items():
                slot.current = model
                await asyncio.sleep(_SETTLE_SECONDS)
                before, started = next(answered), time.process_time()
                await asyncio.sleep(_MEASURE_SECONDS)
                num_answered = next(answered) - before - 1
                microseconds[num_live].append(1e6 * (time.process_time() - started) / max(num_answered, 1))
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await recommender.close()
    return microseconds


def main(names: Sequence[str]) -> None:
    """Measures the catalogues one after the other and prints a line per number of live items."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for name in names or ("ml-1m", "100k"):
        microseconds = asyncio.run(measure(build(SPECS[name], Path(".tandem/bench"))))
        for num_live, own in microseconds.items():
            ratio = statistics.median(live / none for live, none in zip(own, microseconds[0], strict=True))
            print(f"{name}, {num_live:5,} live items: {statistics.median(own):4.0f} us a request, {ratio:.2f} of none")


if __name__ == "__main__":
    main(sys.argv[1:])
