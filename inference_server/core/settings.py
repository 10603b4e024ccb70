"""Settings of the inference server: environment variables `TANDEM_*`, validated at start.

Every process of the server (supervisor, worker, check) reads them from the same environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from inference_server.core.errors import SettingsError
from tandem.contract import names
from tandem.ops.environment_settings import EnvironmentSettings, read_settings
from tandem.ops.settings_types import (
    DEFAULT_STORE_URL,
    EventsUrl,
    ModelAlias,
    ModelName,
    PrivateKeyFile,
    RegistryUri,
    ServedNames,
    StoreUrl,
    default_data_dir,
    default_registry_uri,
    split_names,
    with_port,
)

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""As browsers write it: in lower case, without a path."""

_Port = Annotated[int, Field(ge=0, le=65535)]


def _usable_otlp_endpoint(url: str) -> str:
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url


def _usable_unleash_url(url: str) -> str:
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return with_port(url)


def _usable_origins(text: str) -> str:
    origins = [origin.strip() for origin in text.split(",") if origin.strip()]
    for origin in origins:
        if origin == "*" and len(origins) > 1:
            raise ValueError("* already stands for every origin: name it alone")
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise ValueError(f"{origin:.100} is no origin such as https://shop.example or http://localhost:3000")
    return ",".join(origins)


def _existing_directory(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path


def _existing_file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """The PEM files that TANDEM_TLS_* name."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Certificates of the authorities that sign clients' certificates; None: clients need no certificate."""


class Settings(EnvironmentSettings):
    """All settings. The docstring under each says its unit, its effect and when to change it."""

    host: str = "127.0.0.1"
    """Address to listen on, for gRPC, HTTP and metrics. 0.0.0.0 in a container; `::` listens on all addresses of IPv6
    and of IPv4, `::1` on this machine's over IPv6."""

    grpc_port: _Port = 50051
    """Port of the gRPC API; 0 takes any free port, which the log names."""

    http_port: _Port = 8080
    """Port of the HTTP API; 0 takes any free port, which the log names."""

    http_enabled: bool = True
    """Whether the HTTP API is served. Turn it off where all callers use gRPC."""

    http_cors_origins: Annotated[str, AfterValidator(_usable_origins)] = ""
    """Origins whose pages may call the HTTP API from a browser, as https://shop.example, separated by commas; `*`:
    every origin. Empty: no page may. Cookies are never asked for, and an API key in a page can be read by everybody who
    opens it."""

    http_max_connections: int = Field(default=500, ge=1, le=100_000)
    """Maximum number of HTTP connections of one worker. A new one takes the place of the one that has been without a
    whole request for longest. Raise it where many clients keep connections open; an open one costs 10 kB, under TLS up
    to 150 kB. At most half of the file descriptors that the process may open are used."""

    http_max_connections_per_address: int = Field(default=0, ge=0, le=100_000)
    """Maximum number of HTTP connections of one worker from one IPv4 address, or one IPv6 network of 64 bits; further
    ones get 429. 0: no limit. Leave it at 0 behind a proxy or load balancer, which has one address for all callers."""

    metrics_port: _Port = 9100
    """Port of the Prometheus endpoint /metrics; 0 takes any free port, which the log names."""

    metrics_tls_certificate: Path | None = None
    """File with the certificate of the port of metrics and its chain, in PEM; empty: plaintext. Reloaded when it
    changes."""

    metrics_tls_key: PrivateKeyFile = None
    """File with the certificate's private key, in PEM, unencrypted. Reloaded when it changes."""

    metrics_key_file: Path | None = None
    """File with the key that scrapers send as `authorization: Bearer KEY` (Prometheus: `credentials_file`); empty: no
    key. Read for every request; without a readable key, every scrape is refused."""

    reflection: bool = True
    """Whether gRPC reflection is served, which grpcurl needs. Turn it off where the API should not be discoverable."""

    channelz: bool = True
    """Whether gRPC's channelz is served, which shows connections and calls. Turn it off where callers should not see
    them."""

    max_request_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 26)
    """Largest request in bytes; a larger request is refused before it is read. The longest lists that the API allows
    need half of the default; many queries of RecommendMany may need more."""

    max_streams_per_connection: int = Field(default=16, ge=1, le=100_000)
    """Maximum number of concurrent calls on one HTTP/2 connection; a client holds further calls back. Raise it for a
    proxy that sends the calls of many clients over one connection."""

    tls_certificate: Path | None = None
    """File with the server's certificate and its chain, in PEM; empty: plaintext. Reloaded when it changes."""

    tls_key: PrivateKeyFile = None
    """File with the certificate's private key, in PEM, unencrypted. Reloaded when it changes."""

    tls_client_ca: Path | None = None
    """File with the certificates, in PEM, of the authorities that sign clients' certificates; with it every client must
    present a certificate. Empty: clients need no certificate. Reloaded when it changes, for new connections."""

    api_keys_file: Path | None = None
    """File with one line for each API key, `name:sha256[:rights] [users=PREFIX] [concurrent=N] [rate=N]`, as
    `python -m inference_server hash-key` prints it; empty: calls need no key. Callers send `authorization: Bearer KEY`
    or `x-api-key: KEY`; health checks need no key. Rights are `read`, `record`, `catalogue` and `operate`, all of them
    where the line names none; `users` limits the key to users whose ids begin so, `concurrent` and `rate` (calls a
    second) limit the caller in each worker. Reloaded when it changes: a key that the file does not name is not valid,
    and lines that cannot be read are left out and logged. A file that cannot be read leaves its keys valid for 30
    seconds, then none."""

    caller_max_concurrent: int = Field(default=0, ge=0, le=100_000)
    """Maximum number of calls in flight of one caller in each worker, where its line of TANDEM_API_KEYS_FILE does not
    say; further calls are refused with RESOURCE_EXHAUSTED. 0: only TANDEM_MAX_CONCURRENT_REQUESTS holds. Set it where
    one caller must not take the server from the others."""

    caller_max_calls_per_second: float = Field(default=0.0, ge=0, le=1e6)
    """Maximum number of calls a second of one caller in each worker, where its line does not say; a bulk entry is a
    call. 0: no limit."""

    bundle_path: Annotated[Path | None, AfterValidator(_existing_directory)] = None
    """Bundle folder to serve without a registry; empty: follow the registry. For debugging and air-gapped hosts."""

    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow registry. Only the supervisor reads it."""

    model_name: ModelName = names.REGISTERED_MODEL
    """Registered model to serve."""

    model_alias: ModelAlias = names.CHAMPION
    """Registry alias to serve; reported as `variant`."""

    further_models: ServedNames = ""
    """Aliases and version numbers of models that answer beside the server's own, for the arms of experiments, separated
    by commas, as `challenger,17`. Each is opened in every worker, takes the memory of its bundle, and follows its alias
    by itself; one that cannot be opened leaves the others alone. Set it to models that shall be open before an
    experiment names them; arms open theirs by themselves."""

    shadow_model: ServedNames = ""
    """Alias or version number of a model that answers TANDEM_SHADOW_SHARE of the requests once more, after the reply,
    to be compared with the server's own (docs/experiments.md); several are separated by commas. It is opened as those
    of TANDEM_FURTHER_MODELS are, and need not be named there. No caller sees its answers."""

    shadow_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the requests that a shadow model answers too, chosen by request id. Each costs about as much processor
    time as a request; lower it where `tandem_shadow_requests_total` has many `queue_full` or `expired`."""

    registry_poll_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Seconds between two polls of the alias. Raise it where many servers share one registry."""

    bundle_timeout_seconds: float = Field(default=600.0, ge=1, le=86_400)
    """Seconds that the download of a bundle may take, and then its check. Both run in processes of their own, which end
    with the time: the bundle is refused, or downloaded again later. Raise it for large bundles from a slow network."""

    bundle_check_memory_mb: int = Field(default=0, ge=0, le=1 << 24)
    """Mebibytes of memory that the check of a bundle may allocate, mapped files aside; a bundle that needs more is
    refused. 0: 1024, and four times the size of the bundle's files. Set it where a container's limit is lower."""

    store_url: StoreUrl = DEFAULT_STORE_URL
    """Online store: Redis or Valkey."""

    events_url: EventsUrl = ""
    """Stream that events and catalogue changes are appended to: Redis or Valkey as for TANDEM_STORE_URL, or
    kafka://host:port (extra `kafka`; further brokers after commas, options of librdkafka after `?`). Empty: the online
    store. Use a separate server where the store's disk is slow, because reads wait during an fsync. feature_sync needs
    the same value."""

    events_durability: Literal["fsync", "memory"] = "fsync"
    """When events are acknowledged. fsync: once they are on disk; Redis must have `appendonly yes` and `appendfsync
    always`, else the calls are UNAVAILABLE. memory: once Redis has received them; if it crashes, it loses what its own
    policy allows, with everysec one second. Kafka always acknowledges with acks=all."""

    events_wait_replicas: int = Field(default=0, ge=0, le=100)
    """Number of replicas that must have received events before they are acknowledged (WAIT), beside what
    TANDEM_EVENTS_DURABILITY asks for; with fewer, the calls are UNAVAILABLE. Raise it where a fail-over to a replica
    must lose no acknowledged event. Without effect on Kafka, which waits for its in-sync replicas anyway."""

    events_wait_replicas_ms: float = Field(default=500.0, ge=1, le=60_000)
    """Longest wait for these replicas, in milliseconds. Keep it below TANDEM_EVENTS_DEADLINE_MS."""

    events_deadline_ms: float = Field(default=1000.0, ge=1, le=60_000)
    """Milliseconds that a call which records events or changes items may take, even if the caller allows more."""

    events_max_backlog: int = Field(default=1_000_000, ge=1)
    """Maximum number of entries in a stream; further entries are refused with RESOURCE_EXHAUSTED. Nothing is dropped
    while feature_sync is down: callers keep what was refused. A million events take 0.14 GB of the store. Kafka has
    limits of its own."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder for downloaded bundles, for `control.sock`, by which the operator's commands reach the server, and for
    `set_aside.json`, the versions that must not serve. Put it on a disk that survives restarts, so that a start needs
    no registry."""

    deadline_ms: float = Field(default=50.0, ge=1, le=60_000)
    """Milliseconds that an answer may take, even if the caller allows more. Raise it where complete answers matter more
    than fast answers. RecommendMany may take as much again for every 16 of its queries."""

    policies_file: Annotated[Path | None, AfterValidator(_existing_file)] = None
    """YAML file of policies by scenario (docs/policies.md); empty: one built-in policy. Changes take effect within
    seconds."""

    experiments_file: Annotated[Path | None, AfterValidator(_existing_file)] = None
    """YAML file of experiments, of the shape of Unleash's feature definitions (docs/experiments.md); empty: none.
    Changes take effect within seconds."""

    unleash_url: Annotated[str, AfterValidator(_usable_unleash_url)] = ""
    """API of an Unleash server whose flags are the experiments, such as http://127.0.0.1:4242/api; empty: none. Only
    the supervisor asks it. Not together with TANDEM_EXPERIMENTS_FILE."""

    unleash_token_file: Annotated[Path | None, Field(validate_default=True)] = None
    """File with the backend token of Unleash, which also says the environment. Read again when it changes."""

    unleash_app_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "tandem"
    """Name under which Unleash lists this server."""

    unleash_flag_prefix: str = "tandem."
    """Flags whose names begin so are layers of experiments, together with the flags that they depend on; all others are
    somebody else's."""

    unleash_refresh_seconds: int = Field(default=5, ge=1, le=3600)
    """Seconds between two polls of Unleash. A kill switch takes as long to be seen; raise it where hundreds of servers
    share one Unleash."""

    notify_urls_file: Annotated[Path | None, AfterValidator(_existing_file)] = None
    """File with a URL on each line, such as slack://... or json://... (https://appriseit.com), to which the supervisor
    sends what operators want to hear: moves of a canary, rollbacks, refused bundles. Empty: nobody is told. The URLs
    are secrets. Needs the extra `notify`. Read again for every message."""

    workers: int = Field(default=1, ge=1, le=256)
    """Number of processes that answer on the shared port. Use one for each available core; 1 where another layer adds
    servers, as Kubernetes does."""

    worker_start_attempts: int = Field(default=5, ge=1, le=1000)
    """Consecutive starts of a worker that may fail before the server ends, if no other worker answers. Raise it where
    something that workers need at their start becomes available late."""

    worker_hang_seconds: float = Field(default=1.5, ge=0, le=600)
    """Seconds without a sign of life from the event loop of a worker that answers, after which the worker is killed and
    replaced; the log shows the stacks of its threads. A worker that gets no processor time has ten times as long. Raise
    it where machines stall; 0 never kills."""

    min_swap_overlap: float = Field(default=0.0, ge=0, le=1)
    """Minimum share of recommended items that a new bundle must have in common with the serving bundle, mean over its
    held-out users; below it, the new bundle is refused. 0 refuses nothing: a retrained model may well differ."""

    max_concurrent_requests: int = Field(default=128, ge=1, le=100_000)
    """Maximum number of requests that one worker answers concurrently; further requests are refused with
    RESOURCE_EXHAUSTED. RecommendMany counts as one for every 8 of its queries, and all such calls may hold half.
    Lower it when latency grows under load."""

    max_live_items: int = Field(default=10_000, ge=0, le=1_000_000)
    """Maximum number of items changed since the bundle was made that a worker keeps; each takes 2 to 3 kB in every
    worker, and all are scored for every request. Beyond it the oldest changes wait for the next bundle; removals of
    deleted and unavailable items never wait. Lower it where the whole catalogue is rewritten more often than models are
    trained."""

    shutdown_grace_seconds: float = Field(default=10.0, ge=0, le=600)
    """Seconds at shutdown in which requests in flight may finish before they are cancelled."""

    otlp_endpoint: Annotated[str, AfterValidator(_usable_otlp_endpoint)] = ""
    """OpenTelemetry collector for traces of requests, such as http://127.0.0.1:4317 (gRPC; https for TLS); empty: no
    traces. Needs the extra `tracing`."""

    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of the requests that are traced. For a request with a W3C traceparent, the caller decides."""

    impressions: Literal["off", "stream"] = "off"
    """`stream` appends what every answer showed to a stream beside the events, with their durability, after the answer
    was sent; feature_sync keeps it as Parquet files for reports and training (docs/experiments.md). It holds user ids
    and the items they were shown: personal data."""

    impressions_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the answers whose impressions are recorded, chosen by request id. Lower it where the stream or the disk
    is too small for all of them; what a report counts shrinks alike."""

    impressions_max_backlog: int = Field(default=1_000_000, ge=1)
    """Maximum number of impressions in the stream; while feature_sync is down, further ones are dropped and counted in
    `tandem_dropped_total`. A million impressions of 20 items take 1 GB of the store. Kafka has limits of its own."""

    impression_log: Path | None = None
    """File to which every answer is appended as one line of JSON, written after the answer was sent; each worker adds
    .worker-N to the name. Empty: no log. It holds user ids and the items they were shown: personal data."""

    impression_log_max_bytes: int = Field(default=1 << 28, ge=1 << 12)
    """Size in bytes at which an impression log is rotated; the five newest files are kept."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged; debug logs every request, with a digest in place of the user's id."""

    @field_validator("further_models", "shadow_model")
    @classmethod
    def _needs_a_registry(cls, names: str, info: ValidationInfo) -> str:
        if names and info.data.get("bundle_path") is not None:
            raise ValueError("needs a registry, and TANDEM_BUNDLE_PATH names a folder instead")
        return names

    @field_validator("shadow_model")
    @classmethod
    def _is_another_model(cls, names: str, info: ValidationInfo) -> str:
        alias = info.data.get("model_alias")
        if alias in split_names(names):
            raise ValueError(f"names {alias!r}, the server's own model (TANDEM_MODEL_ALIAS); name another")
        return names

    @field_validator("unleash_url")
    @classmethod
    def _is_the_only_source(cls, url: str, info: ValidationInfo) -> str:
        if url and info.data.get("experiments_file") is not None:
            raise ValueError("names a second source of experiments; leave TANDEM_EXPERIMENTS_FILE empty")
        return url

    @field_validator("unleash_token_file")
    @classmethod
    def _goes_with_unleash(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if (path is None) != (not info.data.get("unleash_url")):
            raise ValueError("is needed with TANDEM_UNLEASH_URL" if path is None else "needs TANDEM_UNLEASH_URL too")
        return path

    @field_validator("tls_client_ca")
    @classmethod
    def _goes_with_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("tls_certificate") is None:
            raise ValueError("needs TANDEM_TLS_CERTIFICATE too")
        return path

    @property
    def cors_origins(self) -> tuple[str, ...]:
        """The origins of `http_cors_origins`; empty: cross-origin requests are not answered for browsers."""
        return tuple(filter(None, self.http_cors_origins.split(",")))

    @property
    def tls(self) -> TlsFiles | None:
        """The files of TLS; None: plaintext. Their content is checked where they are read, not here: a bundle's check
        reads these settings too, and must not fail because a certificate is being replaced."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(certificate=self.tls_certificate, key=self.tls_key, client_ca=self.tls_client_ca)

    @classmethod
    def load(cls) -> Self:
        """Reads the environment. Raises SettingsError, one line that names the variable."""
        return read_settings(cls, raises=SettingsError)
