"""Where the server is and how to connect to it: target, credentials, channel options.

Plaintext is never the default: it takes `insecure=True` or an address that begins with grpc://. The API key is sent as
metadata rather than as gRPC call credentials, because gRPC refuses call credentials on a plaintext channel, which is a
good choice in a cluster whose network is encrypted by other means (a service mesh).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from tandem.client.arguments import flag, invalid, text

_PLAINTEXT: Final = "grpc://"
_TLS: Final = "grpcs://"
_GRPC_SCHEMES: Final = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:")
"""Prefixes of gRPC targets, which are passed on unchanged."""
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s/:@\[\]]+):\d{1,5}")
_MAX_PORT: Final = 65_535
"""gRPC would take a larger number modulo 65,536."""

_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""Spreads calls over all addresses of a headless service; gRPC's default would use only one of them."""

PemSource = bytes | str | Path
"""PEM as bytes, or the path of a PEM file."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The arguments of a channel."""

    target: str
    """gRPC target, for example dns:///recommender:50051."""
    options: tuple[tuple[str, str | int], ...]
    """Channel options."""
    credentials: grpc.ChannelCredentials | None
    """None: plaintext."""
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    """Sent with every call. Not in the repr: it holds the API key."""


def endpoint(
    address: str,
    *,
    api_key: str | None,
    insecure: bool,
    root_certificates: PemSource | None,
    client_certificate: PemSource | None,
    client_key: PemSource | None,
    keepalive_seconds: float,
) -> Endpoint:
    """Parses address and credentials. Raises InvalidArgument, naming the argument."""
    text("address", address)
    flag("insecure", insecure)
    certificates = (root_certificates, client_certificate, client_key)
    if address.startswith(_PLAINTEXT):
        insecure = True
    elif address.startswith(_TLS) and insecure:
        raise invalid("insecure", f"contradicts the address {address}")
    if insecure and any(certificate is not None for certificate in certificates):
        raise invalid("root_certificates, client_certificate, client_key", "of no use on a plaintext connection")
    if (client_certificate is None) != (client_key is None):
        raise invalid("client_certificate and client_key", "both or neither")
    if api_key is not None and not (
        isinstance(api_key, str) and api_key.isascii() and api_key.isprintable() and api_key.strip()
    ):
        raise invalid("api_key", "at least one character, all of them printable ASCII")
    credentials = None
    if not insecure:
        names = ("root_certificates", "client_certificate", "client_key")
        roots, chain, key = (_pem(name, source) for name, source in zip(names, certificates, strict=True))
        credentials = grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)
    return Endpoint(
        target=_target(address),
        options=_options(keepalive_seconds),
        credentials=credentials,
        metadata=(("authorization", f"Bearer {api_key}"),) if api_key is not None else (),
    )


def _options(keepalive_seconds: float) -> tuple[tuple[str, str | int], ...]:
    keepalive_ms = max(1, round(keepalive_seconds * 1e3))
    timeout_ms = max(1, keepalive_ms // 4)
    return (
        ("grpc.service_config", _SERVICE_CONFIG),
        # 256 queries of 500 items take more than gRPC's 4 MB, and the answer would be lost after all of its work.
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", keepalive_ms),
        # On Linux also the time after which the kernel gives up on unacknowledged data (gRFC A18).
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Measured with grpcio 1.85.1: without this option, the client waits a minute or longer for a server whose
        # kernel acknowledges but which does not answer pings, whatever the option above says.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        # Reconnects to a restarted server within a second or two, not after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )


def _target(address: str) -> str:
    target = address.removeprefix(_PLAINTEXT).removeprefix(_TLS)
    if target.startswith(_GRPC_SCHEMES):
        return target
    if not _HOST_AND_PORT.fullmatch(target) or int(target.rpartition(":")[2]) > _MAX_PORT:
        raise invalid("address", f"host:port, grpc://host:port (plaintext) or grpcs://host:port (TLS), not {address!r}")
    return f"dns:///{target}"


def _pem(name: str, source: PemSource | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise invalid(name, f"PEM as bytes, or the path of a readable file: {error}") from error
