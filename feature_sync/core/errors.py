"""Exceptions of feature_sync.

FeatureSyncError
+-- SettingsError        a setting that cannot be used: the caller's mistake, exit code 2
+-- PreparedDataError    the folder is not prepared data, or is damaged
+-- StorageError         a file cannot be written or read: it is damaged, or the disk is full, read-only or gone
+-- RegistryError        the registry cannot be read, or nothing is registered under the alias
+-- StoreError           the online store cannot be reached, stayed away for too long, or refuses a command
|   +-- StoreAway        it does not answer now (also an Unavailable)
|   +-- StoreConflict    another writer changed a key that the transaction had read: it is retried
+-- Unavailable          a dependency does not answer now: `run` waits for it
|   +-- StoreAway, StreamAway   the online store, the broker of a stream
+-- ArchiveUnreadable    a file of the archive is damaged
+-- PortUnavailable      the port of the metrics is in use
+-- PartEnded            a part of `feature_sync run` ended by itself
+-- TowerError           a tower of the bundle cannot be run, or its output is wrong
+-- EmbeddedStoreError   the embedded store cannot be started
+-- ExperimentError      the plan or the table of an experiment cannot be analysed
+-- FeatureStoreError    the feature store refuses, or is not applied yet
|   +-- LeakError        a feature that was not known yet at the time of a label

A bundle that must not be used raises the contract's own `BundleError`. Each of them ends the program with one line on
stderr; the message says what to do about it.
"""


class FeatureSyncError(Exception):
    """Root of feature_sync's exceptions. The message is one line, for a person."""


class SettingsError(FeatureSyncError):
    """A setting that cannot be used. The message names the variable."""


class PreparedDataError(FeatureSyncError):
    """The folder does not hold prepared data as the trainer writes them."""


class StorageError(FeatureSyncError):
    """A file cannot be written or read, for a reason that lies in the file, the disk or in rights. The message names
    it."""


class RegistryError(FeatureSyncError):
    """The model registry cannot be read, or the alias names no version."""


class StoreError(FeatureSyncError):
    """The online store cannot be reached."""


class Unavailable(FeatureSyncError):
    """A dependency does not answer now. `feature_sync run` waits for it; no entry is lost meanwhile."""


class StoreAway(StoreError, Unavailable):
    """The online store does not answer now, or refuses commands for a temporary reason."""


class StoreConflict(StoreError):
    """Another writer changed a watched key: the transaction did nothing."""


class StreamAway(Unavailable):
    """The broker of a stream does not answer now."""


class ArchiveUnreadable(FeatureSyncError):
    """A file of the archive is not what feature_sync writes. The message names it."""


class PortUnavailable(FeatureSyncError):
    """The port of the metrics is in use."""


class PartEnded(FeatureSyncError):
    """A part of `feature_sync run` ended by itself."""


class TowerError(FeatureSyncError):
    """A tower of a bundle cannot be run."""


class EmbeddedStoreError(FeatureSyncError):
    """The embedded store cannot be started."""


class ExperimentError(FeatureSyncError):
    """The plan or the table of an experiment cannot be analysed. The message names the field, column or user."""


class FeatureStoreError(FeatureSyncError):
    """The feature store refuses a request, or its views are not applied yet."""


class LeakError(FeatureStoreError):
    """A source that cannot be joined by time, or a joined value that was not known before its label."""
