"""The cache of bundles: what a registry or a damaged record says never leads out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.core.errors import RegistryUnavailable
from inference_server.supervisor.bundle_cache import BundleCache
from tandem.ops.model_registry import RegisteredVersion
from tests.support.scripted_registry import scripted_registry
from tests.support.serving import serve


class OneBundle:
    """A registry whose every version is one file."""

    async def download(self, version: RegisteredVersion, into: Path) -> Path:
        (into / "bundle").mkdir()
        (into / "bundle" / "file").write_text(version.number)
        return into / "bundle"


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "data", model_name="tandem", alias="champion")


async def test_a_link_in_the_place_of_a_version_is_neither_followed_nor_emptied(
    cache: BundleCache, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("keep me")
    (tmp_path / "data" / "bundles").mkdir(parents=True)
    (tmp_path / "data" / "bundles" / "7").symlink_to(victim)
    version = RegisteredVersion("7", "m", "")
    registry: Any = OneBundle()
    assert cache.find(version) is None
    cache.discard(version)
    cache.keep_only([])
    with pytest.raises(RegistryUnavailable, match="symbolic link"):
        await cache.download(version, registry)
    assert (victim / "file").read_text() == "keep me"
    assert (await cache.download(RegisteredVersion("8", "m", ""), registry) / "file").read_text() == "8"


def test_the_bundle_of_a_folder_names_no_folder_of_the_cache(cache: BundleCache, tmp_path: Path) -> None:
    kept = tmp_path / "data" / "bundles" / "1"
    kept.mkdir(parents=True)
    cache.discard(RegisteredVersion("", "", ""))
    assert kept.is_dir()


@pytest.mark.parametrize("number", ["../../victim", "/", "", "last_served.json", 1, None])
def test_a_record_that_names_no_version_is_no_record(cache: BundleCache, tmp_path: Path, number: object) -> None:
    record = tmp_path / "data" / "bundles" / "last_served.json"
    record.parent.mkdir(parents=True)
    version = {"number": number, "model_version": "m", "source": ""}
    record.write_text(json.dumps({"model_name": "tandem", "alias": "champion", "version": version}))
    assert cache.last_served() is None or cache.find(RegisteredVersion("", "m", "")) is None


@pytest.mark.process
async def test_a_server_takes_no_number_of_a_registry_for_a_path(tmp_path: Path) -> None:
    """The folder that it names is neither removed nor replaced, and the server waits for a registry that means well."""
    victim = tmp_path / "victim" / "file"
    victim.parent.mkdir()
    victim.write_text("keep me")
    with scripted_registry() as hostile:
        hostile.number, hostile.source = "../../victim", tmp_path / "victim"
        async with serve(
            tmp_path / "data", until_serving=False, registry_uri=hostile.uri(), store_url="redis://127.0.0.1:1/0"
        ) as server:
            refused = await server.log("registry_unavailable")
            assert "version '../../victim' is not a number" in refused["reason"]
            assert await server.stop() == 0
    assert victim.read_text() == "keep me"


async def test_a_data_folder_that_is_a_file_is_a_registry_that_cannot_be_used_now(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("")
    cache, registry = BundleCache(path, model_name="tandem", alias="champion"), OneBundle()
    with pytest.raises(RegistryUnavailable, match=rf"version 1 cannot be stored: .*Not a directory: '{path}"):
        await cache.download(RegisteredVersion("1", "m", ""), registry)  # type: ignore[arg-type]
    path.unlink()
    assert (await cache.download(RegisteredVersion("1", "m", ""), registry) / "file").read_text() == "1"  # type: ignore[arg-type]
