"""tandem.v1.RecommendationService: wire messages in, wire messages out, nothing decided."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any, Final

import grpc
import structlog

from inference_server.errors import RequestError
from inference_server.grpc_api.status import STATUS_OF, abort
from inference_server.recommend import Recommender
from inference_server.serving_model import ModelSlot
from inference_server.statistics import Statistics
from inference_server.wire import WIRE_SOURCES, to_query, to_response
from tandem.contract.manifest import Manifest
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_log = structlog.get_logger()

_OK: Final = grpc.StatusCode.OK.name
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name
_INTERNAL: Final = grpc.StatusCode.INTERNAL.name

# grpc.aio types its contexts by request and response; here the two make no difference.
_Context = grpc.aio.ServicerContext[Any, Any]


class RecommendationServicer(pb_grpc.RecommendationServiceServicer):
    """Serves the public API."""

    def __init__(self, recommender: Recommender, models: ModelSlot, statistics: Statistics) -> None:
        self._recommender = recommender
        self._models = models
        self._statistics = statistics

    async def Recommend(  # noqa: N802 - named by the service definition
        self, request: pb.RecommendRequest, context: _Context
    ) -> pb.RecommendResponse:
        """Answers one query; every outcome is counted by its status."""
        started = time.perf_counter()
        code = _INTERNAL
        try:
            answer = await self._recommender.recommend(to_query(request), context.time_remaining())
            response = to_response(answer)
            code = _OK
            return response
        except RequestError as error:
            code = STATUS_OF[type(error)].name
            await abort(context, error)
        except asyncio.CancelledError:
            code = _CANCELLED
            raise
        except Exception:  # a bug of ours: the log gets all of it, the caller only a name to ask for it by
            request_id = os.urandom(16).hex()
            _log.exception("request_failed", request_id=request_id, user_id=request.user_id)
            await context.abort(grpc.StatusCode.INTERNAL, f"internal error, request_id {request_id}")
        finally:
            self._statistics.requests_by_code[code] += 1
            self._statistics.request_seconds.observe(time.perf_counter() - started)

    async def GetServingStatus(  # noqa: N802 - named by the service definition
        self,
        request: pb.GetServingStatusRequest,  # noqa: ARG002 - it has no fields
        context: _Context,  # noqa: ARG002
    ) -> pb.GetServingStatusResponse:
        """Says what is served and how that goes."""
        statistics = self._statistics
        response = pb.GetServingStatusResponse(
            uptime_seconds=time.time() - statistics.started_at_seconds,
            dependencies={name: "up" if up else "down" for name, up in statistics.dependencies_up.items()},
            answers_by_source={
                pb.RecommendationSource.Name(WIRE_SOURCES[source]): count
                for source, count in statistics.answers_by_source.items()
            },
            degraded_by_reason={str(reason): n for reason, n in statistics.degraded_by_reason.items() if n},
            bundles_refused=statistics.refusals_by_kind.total(),
            last_refusal=statistics.last_refusal,
            worker=statistics.identity.worker,
            num_workers=statistics.identity.num_workers,
        )
        response.started_at.FromNanoseconds(int(statistics.started_at_seconds * 1e9))
        model = self._models.current
        if model is not None:
            response.model_version = model.version
            response.variant = model.variant
            response.registry_version = model.registry_version
            response.model_loaded_at.FromNanoseconds(int(model.loaded_at_seconds * 1e9))
            response.manifest.update(_summary(model.bundle.manifest))
        return response


def _summary(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its list of files."""
    summary: dict[str, Any] = json.loads(manifest.to_json())
    del summary["files"]
    return summary
