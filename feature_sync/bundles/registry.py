"""Finds the versions that aliases name in the registry, and keeps their bundles in a cache on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feature_sync.bundles.checked import open_checked, run_until_stopped
from feature_sync.core.errors import RegistryError
from feature_sync.core.settings import Settings
from tandem.contract import names
from tandem.contract.bundle import Bundle, read_manifest
from tandem.contract.errors import BundleError, BundleIncompatible
from tandem.contract.manifest import Manifest
from tandem.contract.paths import is_plain_name, path_within
from tandem.contract.whole_files import read_whole, write_whole
from tandem.ops.bundle_download import download_in_child
from tandem.ops.mlflow_environment import set_mlflow_defaults
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion, RegistryUnreadable
from tandem.ops.secrets import redacted
from tandem.ops.settings_types import is_version_number, sqlite_file

BUNDLE_CACHE: Final = Path("feature_sync", "bundles")
"""Folder of bundles below the data folder."""
_DOWNLOAD: Final = ".download-"
_LONGEST_DOWNLOAD_SECONDS: Final = 24 * 3600.0
_CHAMPION: Final = "champion"
"""File beside the cache that holds the champion's model version: the bundle used last may be another model's."""
_CACHED_PER_ALIAS: Final = 2
"""The version that an alias names, and the one that it replaced: `run` and `publish` share one cache."""


def open_registry(settings: Settings) -> ModelRegistry:
    """The registry that the settings name. Opens no connection."""
    # MLflow's progress bar would disturb ours, and with its default retries and time limit of two minutes a server that
    # does not answer would be reported a quarter of an hour later.
    set_mlflow_defaults(max_retries=3, timeout_seconds=10, progress_bars=False)
    return ModelRegistry(settings.registry_uri, model_name=settings.model_name)


def find_version(registry: ModelRegistry, alias: str) -> RegisteredVersion:
    """The version that an alias names. Raises RegistryError if there is none or the registry cannot be read."""
    found = find_versions(registry, [alias])
    if not found:
        raise RegistryError(
            f"no version of model {registry.model_name!r} has the alias {alias!r} in {registry.shown_uri}; "
            "train a model first: python -m trainer train"
        )
    return found[0]


def live_names(further: Sequence[str]) -> list[str]:
    """The aliases and version numbers whose bundles are live, the champion first; `further` answer beside servers' own
    models."""
    return list(dict.fromkeys((names.CHAMPION, names.CHALLENGER, *further)))


def find_versions(registry: ModelRegistry, aliases: Sequence[str]) -> list[RegisteredVersion]:
    """The versions that the aliases name; aliases without a version are left out. Raises RegistryError."""
    return list(find_named(registry, aliases).values())


def find_named(registry: ModelRegistry, aliases: Sequence[str]) -> dict[str, RegisteredVersion]:
    """The versions of aliases and version numbers, by these names; those without a version are left out. Raises
    RegistryError."""
    if not registry.exists():
        raise RegistryError(
            f"there is no registry at {sqlite_file(registry.uri)}; train a model first: python -m trainer train"
        )
    with one_line_errors(registry):
        found = (
            (alias, registry.numbered(alias) if is_version_number(alias) else registry.aliased(alias))
            for alias in aliases
        )
        return {alias: version for alias, version in found if version is not None}


def model_version_of(version: RegisteredVersion) -> str:
    """The name of a version's bundle, from its tag, which whoever writes to the registry chooses.

    It becomes a part of keys and the name of a folder. Raises BundleIncompatible if it cannot be one.
    """
    if not is_plain_name(version.model_version):
        raise BundleIncompatible(
            f"registry version {version.number} has the tag {names.MODEL_VERSION_TAG} "
            f"{version.model_version[:60]!r}, which is no model version: letters, digits, '.', '_' and '-'"
        )
    return version.model_version


def fetch_bundle(
    registry: ModelRegistry,
    version: RegisteredVersion,
    settings: Settings,
    *,
    num_live: int | None = None,
    stop: threading.Event | None = None,
) -> Bundle:
    """The version's checked bundle, from the cache or downloaded into it. The cache then keeps the bundles used last,
    two for each of `num_live` names; None: all.

    Raises RegistryError, also when `stop` is set meanwhile, or BundleError when the bundle is damaged or not the one
    that the registry names. A bundle that is refused leaves the cache.
    """
    cache = settings.data_dir / BUNDLE_CACHE
    directory = path_within(cache, model_version_of(version), "model version")
    if not directory.is_dir():
        _download(registry, version, directory, seconds=settings.bundle_timeout_seconds, stop=stop)
    os.utime(directory)
    if num_live is not None:
        _drop_old(cache, keep=_CACHED_PER_ALIAS * num_live)
    try:
        bundle = open_checked(directory, settings, stop=stop)
        if bundle.manifest.model_version != version.model_version:
            raise BundleIncompatible(
                f"registry version {version.number} is tagged {version.model_version}, "
                f"but its bundle says {bundle.manifest.model_version}"
            )
    except BundleError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return bundle


def remember_champion(cache: Path, model_version: str) -> None:
    """Notes for `champion_manifest` which bundle of `cache` is the champion's; it stays in the cache. Raises
    OSError."""
    if (cache / model_version).is_dir() and _champion(cache) != model_version:
        write_whole(cache.with_name(_CHAMPION), model_version)


def champion_manifest(cache: Path) -> Manifest | None:
    """The manifest of the bundle in `cache` that was the champion's last; None if there is none, or it cannot be read.

    Where no champion was noted, it is the bundle used last.
    """
    directory = cache / _champion(cache)
    if directory == cache or not directory.is_dir():
        directory = max(cache.glob("[!.]*"), key=_used_at, default=cache)
    try:
        return read_manifest(directory)
    except BundleError:
        return None


def _champion(cache: Path) -> str:
    """The model version of the noted champion; empty if there is none."""
    try:
        noted = read_whole(cache.with_name(_CHAMPION)).decode(errors="replace")
    except OSError:
        return ""
    return noted if is_plain_name(noted) else ""


def _drop_old(cache: Path, *, keep: int) -> None:
    """Removes all but `keep` bundles, the champion's and those used last, and the remains of killed downloads, but not
    downloads of other processes."""
    champion = _champion(cache)
    bundles = sorted(cache.glob("[!.]*"), key=lambda path: (path.name == champion, _used_at(path)))
    left = [path for path in cache.glob(f"{_DOWNLOAD}*") if time.time() - _used_at(path) > _LONGEST_DOWNLOAD_SECONDS]
    for path in (*bundles[:-keep], *left):
        shutil.rmtree(path, ignore_errors=True)


def _used_at(path: Path) -> float:
    """Time of the last use, in seconds since 1970; 0 if another process has just removed the folder."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _download(
    registry: ModelRegistry,
    version: RegisteredVersion,
    directory: Path,
    *,
    seconds: float,
    stop: threading.Event | None,
) -> None:
    """Downloads into a neighbouring folder and renames it, so that a killed download leaves no partial bundle."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_DOWNLOAD, dir=directory.parent) as staging:
        with one_line_errors(registry):
            work = download_in_child(registry, version, Path(staging), seconds=seconds)
            downloaded = run_until_stopped(work, stop)
        try:
            downloaded.rename(directory)
        except OSError:
            if not directory.is_dir():  # or another process was faster
                raise


@contextmanager
def one_line_errors(registry: ModelRegistry) -> Iterator[None]:
    """Turns the exception of a registry that cannot be read into RegistryError, whose message is one line."""
    try:
        yield
    except RegistryUnreadable as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
        raise RegistryError(f"the registry {registry.shown_uri} cannot be read: {redacted(reason)}") from error
