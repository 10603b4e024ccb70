"""The gRPC server: its services, its health, and its shutdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from inference_server.api.grpc import bulk, channelz
from inference_server.api.grpc.accepting import robust_server
from inference_server.api.grpc.authentication import KeyRequired
from inference_server.api.grpc.credentials import server_credentials
from inference_server.api.grpc.decoding import Decoder
from inference_server.api.grpc.drain import drain
from inference_server.api.grpc.handlers import Services
from inference_server.api.grpc.health import Health
from inference_server.api.grpc.reflection import add_reflection
from inference_server.core.errors import PortUnavailable
from inference_server.security.files import Security
from inference_server.telemetry.statistics import Statistics
from tandem.ops.listening import numeric, printed
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name
HOT_METHODS: Final = frozenset(f"{SERVICE_NAME}/{name}" for name in ("Recommend", "SimilarItems", "RecordEvents"))
"""Methods that are called thousands of times a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one connection."""

    max_request_bytes: int = 1 << 20
    """Largest message; gRPC itself refuses a larger message with RESOURCE_EXHAUSTED."""
    max_streams: int = 64
    """Maximum number of concurrent calls; a client holds further calls back until one of them has ended."""
    keepalive_seconds: float = 60.0
    """Silence after which the server pings a peer, even a peer without calls."""
    keepalive_timeout_seconds: float = 20.0
    """Time in which it must answer: a peer that vanished without closing the connection would hold memory forever."""
    min_ping_interval_seconds: float = 10.0
    """Shortest time between two pings of an idle client; a client that pings more often is disconnected. gRPC's default
    of 300 seconds would disconnect clients that keep their connection open through a load balancer."""
    ping_tolerance: float = 0.1
    """How much earlier a ping may arrive, as a share of that time: a client that keeps to it exactly is disconnected
    after three pings that the network delayed less than the ones before them."""

    def options(self) -> tuple[tuple[str, int], ...]:
        """As gRPC's channel arguments. gRPC ignores a name that it does not know."""
        shortest_seconds = self.min_ping_interval_seconds * (1.0 - self.ping_tolerance)
        return (
            ("grpc.max_receive_message_length", self.max_request_bytes),
            ("grpc.max_concurrent_streams", self.max_streams),
            # gRPC's protection also counts ended calls that Python has not freed yet: it refused 245 of 1,200 calls of
            # a client that kept to the limit. Admission bounds the work instead.
            ("grpc.http.overload_protection", 0),
            ("grpc.keepalive_time_ms", int(self.keepalive_seconds * 1e3)),
            # With the first option alone, no connection was closed within 10 s of an unanswered ping.
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_seconds * 1e3)),
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_seconds * 1e3)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", int(shortest_seconds * 1e3)),
        )


_DEFAULT_LIMITS: Final = Limits()
_OPEN: Final = Security()


class GrpcServer:
    """The gRPC server of one worker. Its health is NOT_SERVING until `set_serving`."""

    def __init__(
        self,
        servicer: pb_grpc.RecommendationServiceServicer,
        statistics: Statistics,
        *,
        host: str,
        port: int,
        reflection_enabled: bool,
        channelz_enabled: bool = True,
        limits: Limits = _DEFAULT_LIMITS,
        security: Security = _OPEN,
    ) -> None:
        """Binds the port; 0 takes any free port. Raises PortUnavailable."""
        self._server = robust_server(
            interceptors=[] if security.api_keys is None else [KeyRequired(security.api_keys)],
            options=(
                # The supervisor holds the port, so that only its workers share it (see `held_ports`).
                ("grpc.so_reuseport", 1),
                ("grpc.enable_channelz", int(channelz_enabled)),
                *limits.options(),
            ),
            hot=HOT_METHODS,
        )
        services = Services(self._server, Decoder(statistics), raw=frozenset({bulk.METHOD}), hot=HOT_METHODS)
        pb_grpc.add_RecommendationServiceServicer_to_server(servicer, services)  # type: ignore[arg-type]  # see `Services`
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        served = [SERVICE_NAME, health.SERVICE_NAME]
        if channelz_enabled:
            channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.Channelz(), services)
            served.append(channelz.SERVICE_NAME)
        if reflection_enabled:
            add_reflection(served, services)
        self.methods = tuple(services.methods)
        self._streams = tuple(f"/{method}" for method in services.streams)
        self._services = services
        self.port = self._listen(host, port, security)

    async def start(self) -> None:
        """Begins to answer, NOT_SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def set_serving(self) -> None:
        """Tells health watchers that there is a model."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, *, grace_seconds: float) -> None:
        """Sets NOT_SERVING, leaves the port, waits up to `grace_seconds` for calls in flight, ends the rest, closes.

        Calls that come too late are left to their clients, which send them to another server (see `drain`).
        """
        await self._health.end()
        await drain(
            self._server,
            self.port,
            grace_seconds=grace_seconds,
            streams=self._streams,
            num_answering=lambda: self._services.num_answering,
        )

    def _listen(self, host: str, port: int, security: Security) -> int:
        try:
            address = printed(numeric(host), port)
            if security.certificates is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, server_credentials(security.certificates))
        except (OSError, RuntimeError) as error:
            raise PortUnavailable(f"cannot listen on {printed(host, port)} for gRPC: {error}") from error

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)
