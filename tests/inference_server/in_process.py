"""A worker's parts in this process, for cases that a server process cannot be made to show: planted costs, bugs,
callers who go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from deploy.local.ports import free_port
from inference_server.api.grpc.server import GrpcServer
from inference_server.api.grpc.servicer import RecommendationServicer
from inference_server.canary.counts import CanaryCounts
from inference_server.events.group_commit import GroupCommit
from inference_server.events.recorder import Recorder
from inference_server.events.redis_stream import RedisStream
from inference_server.experiments.slot import ExperimentSlot
from inference_server.model.serving_model import ModelSlot
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.flow.ladder import Ladder
from inference_server.request.policy_choices import policy_choices
from inference_server.request.recommender import Recommender
from inference_server.request.shadow.shadows import ShadowPlan
from inference_server.security.files import Security
from inference_server.store.user_store import UserStore
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.support.serving import PATIENCE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a worker, and a stub that calls it over gRPC."""

    stub: pb_grpc.RecommendationServiceStub
    recommender: Recommender
    admission: Admission
    statistics: Statistics
    models: ModelSlot
    server: GrpcServer


def no_store() -> str:
    """The address of a store that does not exist."""
    return f"redis://127.0.0.1:{free_port()}/0"


def recorder_of(url: str, statistics: Statistics, *, max_seconds: float, max_backlog: int = 1_000_000) -> Recorder:
    """A recorder of events in the streams of a store."""
    stream = RedisStream(url, fsync=True, wait_ms=1000)
    return Recorder(GroupCommit(stream, statistics, max_backlog=max_backlog), statistics, max_seconds=max_seconds)


@asynccontextmanager
async def in_process(
    models: ModelSlot,
    *,
    store_url: str | None = None,
    threads: Executor | None = None,
    policies_file: Path | None = None,
    max_seconds: float = PATIENCE_SECONDS,
    max_concurrent_requests: int = 64,
    ladder: Ladder | None = None,
    reflection_enabled: bool = False,
    security: Security | None = None,
    shadow: ShadowPlan | None = None,
    experiments: ExperimentSlot | None = None,
    canary: CanaryCounts | None = None,
) -> AsyncIterator[Parts]:
    """The worker's object graph, served on a free port; without `store_url` the store is down, without `security` no
    call needs a key."""
    statistics = Statistics()
    admission = Admission(
        models,
        PolicyFile(policies_file, policy_choices()),
        max_concurrent_requests=max_concurrent_requests,
        max_seconds=max_seconds,
        experiments=experiments,
    )
    store = UserStore(store_url or no_store(), statistics)
    own_threads = ThreadPoolExecutor(2)
    recommender = Recommender(
        admission=admission,
        store=store,
        threads=threads or own_threads,
        statistics=statistics,
        ladder=ladder,
        shadow=shadow,
        canary=canary,
    )
    recorder = recorder_of(store_url or no_store(), statistics, max_seconds=max_seconds)
    servicer = RecommendationServicer(recommender, recorder, models, statistics)
    server = GrpcServer(
        servicer,
        statistics,
        host="127.0.0.1",
        port=0,
        reflection_enabled=reflection_enabled,
        security=security or Security(),
    )
    await store.start()
    await recommender.start()
    await recorder.start()
    await server.start()
    try:
        # Channels of one process would share a connection, and with it the fate of another test's server.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            yield Parts(
                stub=pb_grpc.RecommendationServiceStub(channel),
                recommender=recommender,
                admission=admission,
                statistics=statistics,
                models=models,
                server=server,
            )
    finally:
        await server.stop(grace_seconds=0)
        await recommender.close()
        await recorder.close()
        await store.close()
        own_threads.shutdown(wait=False, cancel_futures=True)
