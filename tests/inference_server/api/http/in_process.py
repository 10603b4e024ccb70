"""The HTTP server in this process, around a worker's parts, for cases that a server process cannot be made to show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from inference_server.api.http.app import ApiKeys, create_app
from inference_server.api.http.limits import HttpLimits
from inference_server.api.http.server import HttpServer
from inference_server.model.serving_model import ModelSlot
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.flow.ladder import Ladder
from inference_server.request.policy_choices import policy_choices
from inference_server.request.recommender import Recommender
from inference_server.security.tls import Certificates
from inference_server.store.user_store import UserStore
from inference_server.telemetry.statistics import Statistics
from tests.inference_server.in_process import no_store, recorder_of
from tests.support.serving import PATIENCE_SECONDS

RECOMMEND = "/v1/recommend"


@dataclass(frozen=True, kw_only=True)
class Served:
    server: HttpServer
    client: httpx.AsyncClient
    statistics: Statistics
    admission: Admission
    threads: ThreadPoolExecutor

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.port


@asynccontextmanager
async def served(
    models: ModelSlot,
    *,
    store_url: str | None = None,
    max_seconds: float = PATIENCE_SECONDS,
    max_concurrent_requests: int = 10,
    api_keys: ApiKeys | None = None,
    certificates: Certificates | None = None,
    ladder: Ladder | None = None,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - it is frozen
    cors_origins: tuple[str, ...] = (),
) -> AsyncIterator[Served]:
    """The worker's object graph with HTTP alone; without `store_url` the store is down."""
    statistics = Statistics()
    admission = Admission(
        models,
        PolicyFile(None, policy_choices()),
        max_concurrent_requests=max_concurrent_requests,
        max_seconds=max_seconds,
    )
    store = UserStore(store_url or no_store(), statistics)
    with ThreadPoolExecutor(1) as threads:
        recommender = Recommender(
            admission=admission, store=store, threads=threads, statistics=statistics, ladder=ladder
        )
        recorder = recorder_of(store_url or no_store(), statistics, max_seconds=max_seconds)
        app = create_app(recommender, recorder, models, statistics, api_keys=api_keys, cors_origins=cors_origins)
        server = HttpServer(
            app, host="127.0.0.1", port=0, statistics=statistics, limits=limits, certificates=certificates
        )
        await store.start()
        await recommender.start()
        await recorder.start()
        await server.start()
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS
            ) as client:
                yield Served(server=server, client=client, statistics=statistics, admission=admission, threads=threads)
        finally:
            await server.stop(grace_seconds=0)
            await recommender.close()
            await recorder.close()
            await store.close()
