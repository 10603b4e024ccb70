"""The usual Python recommender server: a thread per request, a read per key, every item scored and sorted.

`python -m benchmarks.bounds.naive_server BUNDLE STORE_URL` prints its port and serves until SIGTERM. It sends the same
message from the same data as the inference server does without a blend: the ten best unseen items by the user's stored
vector or by the mean vector of their history. Nothing in it is slow on purpose: numpy scores, hiredis parses, and the
number of threads is that of grpcio's own examples.
"""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import redis

from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key
from tandem.contract.vocabulary import MISSING_ROW
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_THREADS: Final = 10
_DEFAULT_NUM_ITEMS: Final = 10


class NaiveServicer(pb_grpc.RecommendationServiceServicer):
    """Implements Recommend only."""

    def __init__(self, bundle: Bundle, store: redis.Redis) -> None:
        self._version = bundle.manifest.model_version
        self._vocabulary = bundle.item_vocabulary
        self._vectors = np.array(bundle.item_vectors)
        self._item_ids = bundle.items.item_ids(range(len(bundle.items)))
        self._store = store

    def Recommend(  # noqa: N802 - named by the service definition
        self,
        request: pb.RecommendRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.RecommendResponse:
        """Reads the user's state and vector, scores every item and sorts all scores."""
        stored: Any = self._store.get(user_state_key(request.user_id))
        state = UserState.from_bytes(stored) if stored else UserState()
        seen = self._vocabulary.rows_of_keys(state.seen_item_keys)
        seen = seen[seen != MISSING_ROW]
        stored = self._store.get(user_vector_key(self._version, request.user_id))
        vector = UserVector.from_bytes(stored).values if stored else self._vectors[seen].mean(axis=0)
        scores = self._vectors @ vector
        scores[seen] = -np.inf
        best = np.argsort(-scores)[: request.num_items or _DEFAULT_NUM_ITEMS]
        response = pb.RecommendResponse(model_version=self._version, source=pb.RECOMMENDATION_SOURCE_RETRIEVED)
        for row in best:
            response.items.add(item_id=self._item_ids[row], score=scores[row])
        return response


def main() -> None:
    """Serves until SIGTERM."""
    bundle, store = read_bundle(Path(sys.argv[1]), verify_checksums=False), redis.Redis.from_url(sys.argv[2])
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS))
    pb_grpc.add_RecommendationServiceServicer_to_server(NaiveServicer(bundle, store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    print(port, flush=True)
    stopped.wait()
    server.stop(grace=1.0).wait()


if __name__ == "__main__":
    main()
