"""The model registry: which version an alias names, and its bundle.

This is the only module of feature_sync that imports mlflow, and only when it is used: the import costs more than a
second, and neither the embedded store nor `publish --bundle` needs it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feature_sync.core.errors import RegistryError
from tandem.contract import names
from tandem.contract.bundle import Bundle, read_bundle

BUNDLE_CACHE: Final = Path("feature_sync", "bundles")
"""Folder of bundles below the data folder."""
_SQLITE: Final = "sqlite:///"
_DOWNLOAD: Final = ".download-"
_LONGEST_DOWNLOAD_SECONDS: Final = 24 * 3600.0
_CACHED_BUNDLES: Final = 4
"""The champion, the challenger, and the two versions that they replaced: `run` and `publish` share one cache."""

# Read by mlflow when it is imported. A bar of its own inside ours, and reports to its makers, are not wanted.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Its default keeps trying an unreachable server for minutes before it says so.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    model_version: str
    """Name of the bundle, as its manifest has it."""
    registry_version: str
    """The registry's own number."""
    source: str
    """URI of the bundle folder."""


def find_version(registry_uri: str, model_name: str, alias: str) -> RegisteredVersion:
    """The version that an alias names. Raises RegistryError if there is none or the registry cannot be read."""
    found = find_versions(registry_uri, model_name, [alias])
    if not found:
        raise RegistryError(
            f"no version of model {model_name!r} has the alias {alias!r} in {registry_uri}; "
            "train a model first: python -m trainer train"
        )
    return found[0]


def find_versions(registry_uri: str, model_name: str, aliases: Sequence[str]) -> list[RegisteredVersion]:
    """The versions that the aliases name; aliases without a version are left out. Raises RegistryError."""
    database = Path(registry_uri.removeprefix(_SQLITE))
    if registry_uri.startswith(_SQLITE) and not database.is_file():
        # mlflow would create an empty registry here and then say that the model is missing.
        raise RegistryError(f"there is no registry at {database}; train a model first: python -m trainer train")
    versions = []
    with _quiet_errors(registry_uri):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=registry_uri, registry_uri=registry_uri)
        for alias in aliases:
            try:
                versions.append(_registered(client.get_model_version_by_alias(model_name, alias)))
            except MlflowException as error:
                if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    raise
    return versions


def _registered(found: Any) -> RegisteredVersion:
    model_version = found.tags.get(names.MODEL_VERSION_TAG)
    if not model_version:
        raise RegistryError(f"version {found.version} of {found.name!r} lacks the tag {names.MODEL_VERSION_TAG}")
    return RegisteredVersion(model_version=model_version, registry_version=str(found.version), source=str(found.source))


def fetch_bundle(registry_uri: str, version: RegisteredVersion, cache: Path) -> Bundle:
    """The version's verified bundle, from `cache` or downloaded into it; the cache keeps the bundles used last.

    Raises RegistryError, or BundleError when the bundle is damaged or not the one that the registry names.
    """
    directory = cache / version.model_version
    if not directory.is_dir():
        _download(registry_uri, version.source, directory)
    os.utime(directory)
    _drop_old(cache)
    bundle = read_bundle(directory)
    if bundle.manifest.model_version != version.model_version:
        raise RegistryError(
            f"registry version {version.registry_version} is tagged {version.model_version}, "
            f"but its bundle says {bundle.manifest.model_version}"
        )
    return bundle


def _drop_old(cache: Path) -> None:
    """Removes all but the bundles used last, and the remains of killed downloads, but not downloads of other
    processes."""
    bundles = sorted(cache.glob("[!.]*"), key=_used_at)
    left = [path for path in cache.glob(f"{_DOWNLOAD}*") if time.time() - _used_at(path) > _LONGEST_DOWNLOAD_SECONDS]
    for path in (*bundles[:-_CACHED_BUNDLES], *left):
        shutil.rmtree(path, ignore_errors=True)


def _used_at(path: Path) -> float:
    """Time of the last use, in seconds since 1970; 0 if another process has just removed the folder."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _download(registry_uri: str, source: str, directory: Path) -> None:
    """Downloads into a neighbouring folder and renames it, so that a killed download leaves no partial bundle."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_DOWNLOAD, dir=directory.parent) as staging:
        with _quiet_errors(registry_uri):
            from mlflow.artifacts import download_artifacts

            # Without dst_path, a local download would return the original folder itself.
            downloaded = download_artifacts(artifact_uri=source, dst_path=staging, tracking_uri=registry_uri)
        try:
            Path(downloaded).rename(directory)
        except OSError:
            if not directory.is_dir():  # or another process was faster
                raise


@contextmanager
def _quiet_errors(registry_uri: str) -> Iterator[None]:
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:  # mlflow lets through whatever its database driver or HTTP client raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RegistryError(f"the registry {registry_uri} cannot be read: {reason}") from error
