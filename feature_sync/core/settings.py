"""Settings of feature_sync: environment variables `TANDEM_*`, read and checked once at the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, DirectoryPath, Field

from feature_sync.core.errors import SettingsError
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
)


def _check_trending_weights(weights: Mapping[str, float]) -> Mapping[str, float]:
    for event_type, weight in weights.items():
        if event_type not in names.EVENT_TYPES:
            raise ValueError(f"{event_type!r} is none of {', '.join(names.EVENT_TYPES)}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of {event_type} must be 0 or more")
    return weights


class Settings(EnvironmentSettings):
    """All settings. The docstring under each says its unit, its effect and when to change it."""

    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow registry that names the model to publish for: `sqlite:////absolute/path` or `http(s)://host:port`. Set it
    if the registry is not in the working directory."""

    model_name: ModelName = names.REGISTERED_MODEL
    """Registered model. Change it to keep several recommenders in one registry."""

    model_alias: ModelAlias = names.CHAMPION
    """Alias of the version whose vectors are published. Set it to `challenger` to prepare a version before it
    serves."""

    further_models: ServedNames = ""
    """Aliases and version numbers of further models, separated by commas, for which `publish` writes users' vectors,
    and `run` refreshes them and makes the vectors of changed items. Those that a server answers with beside its own,
    for an experiment or by its settings, are found in the online store, where the server names them. Set it to prepare
    a model before that; where a vector is missing, the server computes it."""

    store_url: StoreUrl = DEFAULT_STORE_URL
    """Online store: any Redis or Valkey, `redis://`, `rediss://` (TLS) or `unix://`. `feature_sync store` starts the
    embedded one on the port named here."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder of the archive of events and item changes (`events/`, `item-changes/`), of caches (up to four downloaded
    bundles) and of the embedded store's files. The trainer reads the archive: both need the same folder."""

    bundle_path: DirectoryPath | None = None
    """Folder of the served bundle, if the server uses TANDEM_BUNDLE_PATH and not the registry. `run` then makes vectors
    for this bundle."""

    registry_poll_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Seconds between two polls of the registry's aliases by `run`. Items that changed since the training of a new
    champion are recommended under it a few seconds after the next poll. Raise it for a registry with many readers."""

    bundle_timeout_seconds: float = Field(default=600.0, ge=1, le=86_400)
    """Seconds that the download of a bundle may take, and then its check. Both run in processes of their own, which end
    with the time: the bundle is refused, or downloaded again later. Raise it for large bundles from a slow network."""

    bundle_check_memory_mb: int = Field(default=0, ge=0, le=1 << 24)
    """Mebibytes of memory that the check of a bundle may allocate, mapped files aside; a bundle that needs more is
    refused. 0: 1024, and four times the size of the bundle's files. Set it where a container's limit is lower."""

    text_threads: int = Field(default=1, ge=1, le=256)
    """Number of cores that `run` may use to encode the texts of changed items. Raise it where many items change at once
    and cores are free; events need a core of their own."""

    item_change_retention_seconds: int = Field(default=7 * 24 * 3600, ge=0)
    """Minimum number of seconds for which a changed item stays in the live catalogue after every live bundle has merged
    it. After a rollback to an older bundle, items that changed within this time are recommended again; older changes
    wait for the next training. Deleted and unavailable items stay forever. Each item takes the size of its texts."""

    vector_ttl_seconds: int = Field(default=14 * 24 * 3600, ge=0)
    """Seconds until a user vector that is not published again expires; 0 keeps vectors forever. Every model version has
    its own vectors: without expiry, the vectors of old versions fill the store. Keep it well above the time between two
    publishes; the server computes a vector that has expired, which takes time but changes no answer."""

    features_ttl_seconds: int = Field(default=30 * 24 * 3600, ge=0)
    """Seconds until Feast's online values of a user or an item expire unless `features materialize` renews them; 0
    keeps them forever. Every materialisation renews the values of entities that are still in the data, so keep it well
    above the time between two materialisations."""

    store_retry_seconds: float = Field(default=30.0, ge=0, le=3600)
    """Seconds for which a running publish keeps retrying when the store drops the connection. Raise it where a
    fail-over of the store takes longer. If the store does not answer at the start, the error comes at once."""

    events_url: EventsUrl = ""
    """Where the server appends events and item changes: a Redis or Valkey, `redis://`, `rediss://` or `unix://`, or
    Kafka, `kafka://host:port,host:port`. Empty: the online store. The server needs the same value."""

    batch_entries: int = Field(default=500, ge=1, le=10_000)
    """Maximum number of stream entries applied in one transaction. Raise it where the round trip to the store is long;
    each batch then takes longer, and later events wait longer."""

    takeover_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Seconds of silence after which another consumer is taken for dead and its unfinished entries are taken over. This
    bounds the wait of events after a crash."""

    event_id_seconds: int = Field(default=3 * 24 * 3600, ge=60)
    """Minimum number of seconds for which an event id is remembered; an event that is recorded again later is applied
    again. Each id takes about 16 bytes of the store, for up to twice this time. A change of the setting forgets all
    ids: make it when no client is retrying calls, and use the same value in every process."""

    unknown_item_seconds: int = Field(default=30 * 24 * 3600, ge=60)
    """Seconds after its last event for which the counts of an item that no live bundle knows are kept. New items are in
    a bundle long before; ids that are no items would fill the store."""

    event_min_rating: float | None = None
    """Ratings below this value are counted and their items are seen, but they enter no history. Unset: the `min_rating`
    of the data that the champion was trained on, from its bundle, so that both treat events alike. Set it only where
    events are rated on another scale than the training data."""

    trending_half_life_seconds: float = Field(default=6 * 3600.0, ge=1)
    """Seconds in which an event loses half of its weight for the trending items. A change of the setting starts new
    scores."""

    trending_weights: Annotated[Mapping[str, float], AfterValidator(_check_trending_weights)] = Field(
        default={"click": 1.0, "add_to_cart": 3.0, "purchase": 5.0, "rating": 2.0}
    )
    """Weight that an event adds to its item's score, by event type, as JSON. A type that is missing adds nothing, so
    showing an item does not make it trend."""

    trending_items: int = Field(default=500, ge=1, le=100_000)
    """Number of items in the list of trending items. Raise it where filters leave too few of them."""

    dead_letters: int = Field(default=100_000, ge=1)
    """Maximum number of dead letters for each stream: entries that could not be applied. The oldest are dropped
    first."""

    archive: bool = True
    """Whether `feature_sync run` moves applied entries into Parquet files in the data folder. Set it to false in
    additional processes that do not share the first process's folder: otherwise each archive would hold a part of the
    entries."""

    archive_rows: int = Field(default=100_000, ge=1)
    """Maximum number of rows in one archive file, which is written when this many entries wait. They stay in memory
    until then."""

    archive_seconds: float = Field(default=60.0, ge=0)
    """Maximum number of seconds that an applied event waits for its archive file. Lower it where training follows
    closely; there will be more files."""

    sync_metrics_port: int = Field(default=9101, ge=0, le=65535)
    """Port of `feature_sync run` for Prometheus (`/metrics`) and for health checks (`/healthz`); 0 picks a free one."""

    stuck_seconds: float = Field(default=60.0, ge=1, le=86_400)
    """Seconds without progress after which a part of `run` counts as stuck: `/healthz` is then 503 with its name, so
    that an orchestrator starts the program anew. Waiting for a store, a broker or a registry is progress. Raise it
    where a disk takes longer to write an archive file."""

    metrics_tls_certificate: Path | None = None
    """File with the certificate of this port and its chain, in PEM; empty: plaintext. Reloaded when it changes."""

    metrics_tls_key: PrivateKeyFile = None
    """File with the certificate's private key, in PEM, unencrypted. Reloaded when it changes."""

    metrics_key_file: Path | None = None
    """File with the key that scrapers send as `authorization: Bearer KEY` (Prometheus: `credentials_file`); `/healthz`
    needs no key. Empty: no key. Read for every request; without a readable key, every scrape is refused."""

    impression_log: Path | None = None
    """The server's impression log, if it has one on this machine: `export-user` and `delete-user` look there too. Set
    it to the server's own value."""

    host: str = "127.0.0.1"
    """Address on which this port listens. Set it to `0.0.0.0` in a container."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log event that is written."""


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the first variable that cannot be used."""
    return read_settings(Settings, raises=SettingsError)
