"""Feast: applies its repository, materialises the sources, and reads features as of a past moment and online.

This is the only module of feature_sync that imports feast, beside the feature repository itself, which Feast imports.
Feast prints to stdout; here its output is redirected to stderr, because stdout is for a command's result.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from feature_sync.core.errors import FeatureStoreError, SettingsError
from feature_sync.core.settings import Settings
from feature_sync.features.sources import features_dir
from tandem.contract import names

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from feast import FeatureStore, RepoConfig

REPOSITORY: Final = Path(__file__).parent.parent / "feature_repo"
_CONFIG: Final = "feature_store.yaml"
_DEFAULT_PORT: Final = 6379
_UNUSABLE_IN_CONNECTION: Final = frozenset(",'")
"""Feast's connection string is a comma-separated list inside a quoted YAML string."""
_TEXT_OPTIONS: Final = frozenset({"username", "password", "unix_socket_path"})
"""Feast parses values as JSON if it can: a password of digits would become a number."""
_METRICS_VARIABLES: Final = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
"""Feast sets these variables for its own server; this process and its children would write their metrics to its
files."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A registered view."""

    name: str
    entity: str
    """Column of the entity's id."""
    source: Path
    event_timestamp: str
    created_timestamp: str
    """Empty where the source has none."""
    fields: tuple[str, ...]


def feast_environment(settings: Settings) -> dict[str, str]:
    """The variables of feature_store.yaml. Raises SettingsError when Feast cannot use the store's URL or the data
    folder."""
    folder = features_dir(settings.data_dir)
    if unusable := next((part for part in folder.parts if re.search(r"[*?\[=]", part)), None):
        # Feast has DuckDB read its sources, which takes `key=value` for a column and the other characters for patterns.
        raise SettingsError(
            f"TANDEM_DATA_DIR: Feast cannot read sources below a folder named {unusable!r}: its name must not contain "
            "= * ? ["
        )
    return {
        "TANDEM_FEAST_DIR": str(folder),
        "TANDEM_FEAST_REDIS": _connection_string(settings.store_url),
        "TANDEM_FEAST_KEY_TTL_SECONDS": str(settings.features_ttl_seconds),
    }


def apply_repository(settings: Settings) -> list[str]:
    """Registers the repository with Feast's own command line; returns its output lines. The sources must exist already.

    Raises FeatureStoreError.
    """
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(REPOSITORY), "apply"]
    ended = subprocess.run(
        command, env={**os.environ, **feast_environment(settings)}, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ended.stdout.strip().splitlines() or ["no message"]
        raise FeatureStoreError(f"feast apply failed: {lines[-1]}")
    return ended.stdout.splitlines()


class FeastStore:
    """The applied feature store. Every method raises FeatureStoreError when Feast refuses."""

    def __init__(self, settings: Settings) -> None:
        """Opens the registry. Raises FeatureStoreError when nothing is applied."""
        if not (features_dir(settings.data_dir) / "registry.db").is_file():
            raise FeatureStoreError("no features are applied yet: python -m feature_sync features apply --prepared DIR")
        # Imported before Feast imports it with its variables set: the first import decides.
        import feature_sync.telemetry.metrics  # noqa: F401

        with _feast_errors("the registry cannot be opened"):
            from feast import FeatureStore

            self._store: FeatureStore = FeatureStore(config=feast_config(settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ibis

        # Feast reads the sources through Ibis, whose DuckDB connection warns at exit if it is still open.
        ibis.options.default_backend = None

    def views(self) -> list[View]:
        """The registered views, by name."""
        with _feast_errors("the registry cannot be read"):
            return [
                View(
                    name=view.name,
                    entity=view.join_keys[0],
                    source=Path(view.batch_source.path),
                    event_timestamp=view.batch_source.timestamp_field,
                    created_timestamp=view.batch_source.created_timestamp_column,
                    fields=tuple(field.name for field in view.features),
                )
                for view in sorted(self._store.list_feature_views(), key=lambda view: view.name)
            ]

    def materialise(self, first_times: Mapping[str, int | None], *, until: int) -> dict[str, str]:
        """Copies the views' new rows into the online store: those since the last materialisation, or all the first
        time.

        `first_times` has each view's first moment, and `until` is the last moment, in microseconds. Returns the time
        from which each view was materialised, ISO 8601. Views without rows are skipped.
        """
        end = _time(until)
        began: dict[str, str] = {}
        for name, first in first_times.items():
            if first is None:
                continue
            with _feast_errors(f"view {name} cannot be materialised"):
                since = self._store.get_feature_view(name).most_recent_end_time
                if since is None:
                    since = _time(first)
                    # materialize_incremental would start a year ago, regardless of the times of the data.
                    self._store.materialize(start_date=since, end_date=end, feature_views=[name])
                else:
                    self._store.materialize_incremental(end_date=end, feature_views=[name])
            began[name] = since.isoformat()
        return began

    def online(self, view: View, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The online values of entities, by id; None for a missing value."""
        references = [f"{view.name}:{field}" for field in view.fields]
        with _feast_errors(f"view {view.name} cannot be read online"):
            answer = self._store.get_online_features(references, [{view.entity: entity_id} for entity_id in ids])
            columns = answer.to_dict()
        return {entity_id: {field: columns[field][row] for field in view.fields} for row, entity_id in enumerate(ids)}

    def write_online(self, view: View, rows: Sequence[Mapping[str, Any]], *, now: int) -> None:
        """Writes rows into the online store, dated `now`, in microseconds; fields that a row lacks become empty."""
        import pandas as pd

        moment = pd.Timestamp(now, unit="us", tz="UTC")
        columns = {name: [row.get(name) for row in rows] for name in (view.entity, *view.fields)}
        columns[names.KNOWN_AT] = [now] * len(rows)
        frame = pd.DataFrame(columns).astype(dict.fromkeys(_integers(columns), "Int64"))
        frame[view.event_timestamp] = moment
        frame[view.created_timestamp] = moment
        with _feast_errors(f"view {view.name} cannot be written online"):
            self._store.write_to_online_store(view.name, df=frame)

    def historical(self, labels: pd.DataFrame, service: str) -> pa.Table:
        """The labels, with their ids and an `event_timestamp`, and a service's features as known at that time.

        Feature columns are named `{view}__{field}`. A value that was created after the label is not joined, whatever
        the date of its row.
        """
        with _feast_errors(f"the features of {service!r} cannot be joined"):
            features = self._store.get_feature_service(service)
            job = self._store.get_historical_features(
                entity_df=labels, features=features, full_feature_names=True, filter_by_created_timestamp=True
            )
            return job.to_arrow()

    def services(self) -> dict[str, list[str]]:
        """Names of the views of every feature service."""
        with _feast_errors("the registry cannot be read"):
            return {
                service.name: [projection.name for projection in service.feature_view_projections]
                for service in self._store.list_feature_services()
            }

    def online_keys(self, entity: str, ids: Sequence[str]) -> list[bytes]:
        """The keys of entities in the online store: the encoded entity, then the project's name."""
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        config = self._store.config
        return [
            serialize_entity_key(
                EntityKey(join_keys=[entity], entity_values=[Value(string_val=entity_id)]),
                entity_key_serialization_version=config.entity_key_serialization_version,
            )
            + config.project.encode()
            for entity_id in ids
        ]


def feast_config(settings: Settings) -> RepoConfig:
    """feature_store.yaml as Feast reads it, without changing this process's environment. Raises SettingsError."""
    import yaml
    from feast import RepoConfig

    text = Template((REPOSITORY / _CONFIG).read_text()).safe_substitute(feast_environment(settings))
    return RepoConfig(**yaml.safe_load(text), repo_path=REPOSITORY)


def _connection_string(store_url: str) -> str:
    """The store's URL as Feast takes it: host:port,option=value,... with values as JSON."""
    url = urlsplit(store_url)
    options = dict(parse_qsl(url.query))
    host = f"{url.hostname or 'localhost'}:{url.port or _DEFAULT_PORT}"
    if url.scheme == "unix":
        options["unix_socket_path"] = url.path
    else:
        options["db"] = url.path.strip("/") or "0"
    if url.scheme == "rediss":
        options["ssl"] = "true"
    options |= {
        name: unquote(value) for name, value in (("username", url.username), ("password", url.password)) if value
    }
    for name, value in options.items():
        if unusable := _UNUSABLE_IN_CONNECTION & set(value):
            raise SettingsError(f"TANDEM_STORE_URL: Feast cannot take a {name} with {' '.join(sorted(unusable))}")
    texts = {name: json.dumps(value) if name in _TEXT_OPTIONS else value for name, value in options.items()}
    return ",".join([host, *(f"{name}={value}" for name, value in texts.items())])


def _integers(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Integer columns: pandas would convert them to floats if a value is missing."""
    return [
        name
        for name, values in columns.items()
        if any(type(value) is int for value in values) and all(value is None or type(value) is int for value in values)
    ]


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


@contextlib.contextmanager
def _feast_errors(what: str) -> Iterator[None]:
    """Feast passes on the exceptions of its libraries, and its own exceptions share no base class."""
    metrics_before = {name: os.environ.get(name) for name in _METRICS_VARIABLES}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise FeatureStoreError(f"{what}: {reason}") from error
    finally:
        for name, value in metrics_before.items():
            if value is None:
                os.environ.pop(name, None)
