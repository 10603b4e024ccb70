"""The bundle of a registered version as a folder of its own, for hosts that have no registry."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tandem.contract.bundle import Bundle, read_bundle
from tandem.ops.model_registry import RegisteredVersion
from trainer.core.errors import ConfigError
from trainer.registry.registry import Registry


def export_registered(registry: Registry, version: RegisteredVersion, directory: Path) -> Bundle:
    """Copies a version's bundle to `directory`, which appears verified or not at all.

    Raises ConfigError if `directory` exists, RegistryError if the registry cannot give the bundle, BundleCorrupt or
    BundleIncompatible if the bundle fails its checks.
    """
    if directory.exists():
        raise ConfigError(f"{directory} exists; a bundle is never overwritten")
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        read_bundle(registry.download(version, scratch)).directory.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read_bundle(directory, verify_checksums=False)
