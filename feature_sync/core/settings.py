"""Settings of feature_sync: environment variables `TANDEM_*`, read and checked once at the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, DirectoryPath, Field, ValidationError

from feature_sync.core.errors import SettingsError
from tandem.contract import names
from tandem.ops.environment_settings import EnvironmentSettings, variable_of
from tandem.ops.settings_types import (
    DEFAULT_STORE_URL,
    EventsUrl,
    RegistryUri,
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
    """What feature_sync can be told."""

    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow registry that names the model to publish for: `sqlite:////absolute/path` or `http(s)://host:port`.
    Change it when the registry does not lie in the working directory."""

    model_name: str = Field(default=names.REGISTERED_MODEL, min_length=1)
    """Registered model. Change it to keep several recommenders in one registry."""

    model_alias: str = Field(default=names.CHAMPION, min_length=1)
    """Alias of the version whose vectors are published. Set it to `challenger` to prepare a version before it is
    served."""

    store_url: StoreUrl = DEFAULT_STORE_URL
    """Online store: any Redis or Valkey, `redis://`, `rediss://` (TLS) or `unix://`. `feature_sync store` starts the
    embedded one on the port named here."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder of the archive of events and item changes (`events/`, `item-changes/`), of caches (up to four downloaded
    bundles) and of the embedded store's files. The trainer reads the archive: both need the same folder."""

    bundle_path: DirectoryPath | None = None
    """Folder of the one bundle that is served, where the server has it from TANDEM_BUNDLE_PATH and not from the
    registry. It is then the bundle for which `run` makes vectors."""

    registry_poll_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Seconds between two looks of `run` at the registry's aliases. The items that changed since a new champion's
    training are recommended under it a few seconds after the next look. Raise it for a registry with many readers."""

    text_threads: int = Field(default=1, ge=1, le=256)
    """Cores that encoding the texts of changed items may take in `run`. Raise it where many items change at once and
    cores are free; events need one of their own."""

    item_change_retention_seconds: int = Field(default=7 * 24 * 3600, ge=0)
    """Seconds for which a changed item stays in the live catalogue at least, once every live bundle has it. A rollback
    to an older bundle finds the items of this time again; older ones wait for the next training there. Deleted and
    unavailable items stay for ever. Each item takes the size of its texts."""

    vector_ttl_seconds: int = Field(default=14 * 24 * 3600, ge=0)
    """Seconds until a user vector that is not published again expires; 0 keeps vectors for ever. Every model version
    has vectors of its own: without an end, old versions' vectors fill the store. Keep it well above the time between
    two publishes; a vector that has expired is computed by the server, which costs it time, not correctness."""

    features_ttl_seconds: int = Field(default=30 * 24 * 3600, ge=0)
    """Seconds until Feast's online values of a user or an item that no `features materialize` has renewed expire; 0
    keeps them for ever. Every materialisation renews those that are still in the data, so keep it well above the time
    between two. Raise it where materialisations are rare."""

    store_retry_seconds: float = Field(default=30.0, ge=0, le=3600)
    """Seconds for which a publish under way keeps trying when the store drops the connection. Raise it where a
    fail-over of the store takes longer. It does not delay the error when the store is away from the start."""

    events_url: EventsUrl = ""
    """Where the server appends events and item changes: a Redis or Valkey, `redis://`, `rediss://` or `unix://`, or
    Kafka, `kafka://host:port,host:port`. Empty: the online store. The server needs the same value."""

    batch_entries: int = Field(default=500, ge=1, le=10_000)
    """Most entries of a stream that are applied in one transaction. Raise it where the store is far away; a batch takes
    longer then, and so does an event that comes behind it."""

    takeover_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Seconds of silence after which another consumer is taken for dead and its unfinished entries are taken over. It
    bounds how long events wait after a crash."""

    event_id_seconds: int = Field(default=3 * 24 * 3600, ge=60)
    """Seconds for which an event id is remembered at least; an event that is recorded again later is applied again.
    Each remembered id takes about 16 bytes of the store, for up to twice the time. A change forgets all ids: make it
    when no client repeats its calls, and the same in every process."""

    event_min_rating: float | None = None
    """Ratings below it are counted, but enter no history. Set it to the `min_rating` of the training data, so that
    events mean the same to both. Unset: every rating is an interaction."""

    trending_half_life_seconds: float = Field(default=6 * 3600.0, ge=1)
    """Seconds in which an event loses half its weight for the trending items. A change of it begins new scores."""

    trending_weights: Annotated[Mapping[str, float], AfterValidator(_check_trending_weights)] = Field(
        default={"click": 1.0, "add_to_cart": 3.0, "purchase": 5.0, "rating": 2.0}
    )
    """What an event adds to its item, by type, as JSON. A type that is not named adds nothing, so that showing an item
    does not make it trend."""

    trending_items: int = Field(default=500, ge=1, le=100_000)
    """Items in the published list. Raise it where filters leave too few of them."""

    dead_letters: int = Field(default=100_000, ge=1)
    """Entries that are kept, for each stream, of those that could not be applied; the oldest make room."""

    archive: bool = True
    """Whether `feature_sync run` moves what was applied into Parquet files in the data folder. Set it to false for
    further processes that do not share the folder of the first: two archives would each hold a part."""

    archive_rows: int = Field(default=100_000, ge=1)
    """Most rows of one archive file; it is written when so many wait. They are in memory meanwhile."""

    archive_seconds: float = Field(default=60.0, ge=0)
    """Seconds that an applied event waits for its archive file at most. Lower it where training follows closely; there
    will be more files."""

    sync_metrics_port: int = Field(default=9101, ge=0, le=65535)
    """Port of `feature_sync run` for Prometheus (`/metrics`) and for health checks (`/healthz`); 0 picks a free one."""

    host: str = "127.0.0.1"
    """Address that this port listens on. Set it to `0.0.0.0` in a container."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log event that is written."""


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the first variable that cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = variable_of(str(first["loc"][0]))
        raise SettingsError(f"{variable}: {first['msg']} (it is {first['input']!r})") from error
