"""Exceptions of feature_sync.

FeatureSyncError
+-- SettingsError        a setting that cannot be used: the caller's mistake, exit code 2
+-- PreparedDataError    the folder is not prepared data, or is damaged
+-- RegistryError        the registry cannot be read, or nothing is registered under the alias
+-- StoreError           the online store cannot be reached, stayed away for too long, or refuses a command
|   +-- StoreAway        it does not answer now (an Unavailable too)
|   +-- StoreConflict    another writer changed what a transaction had read: it is begun anew
+-- Unavailable          something that is needed is away for now: whoever can wait, waits
|   +-- StoreAway, StreamAway   the online store, the broker of a stream
+-- ArchiveUnreadable    a file of the archive is damaged
+-- PortUnavailable      the port of the metrics is in use
+-- PartEnded            a part of `feature_sync run` ended without being told to
+-- TowerError           a tower of the bundle cannot be run, or answers nonsense
+-- EmbeddedStoreError   the embedded store cannot be started
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


class RegistryError(FeatureSyncError):
    """The model registry cannot be read, or the alias names no version."""


class StoreError(FeatureSyncError):
    """The online store cannot be reached."""


class Unavailable(FeatureSyncError):
    """Something that is needed is away for now. `feature_sync run` waits for it; nothing is lost meanwhile."""


class StoreAway(StoreError, Unavailable):
    """The online store does not answer now, or refuses for a reason that passes."""


class StoreConflict(StoreError):
    """Another writer changed a watched key: the transaction did nothing."""


class StreamAway(Unavailable):
    """The broker of a stream does not answer now."""


class ArchiveUnreadable(FeatureSyncError):
    """A file of the archive is not what feature_sync writes. The message names it."""


class PortUnavailable(FeatureSyncError):
    """The metrics cannot be shown on the port that they were given."""


class PartEnded(FeatureSyncError):
    """A part of `feature_sync run` ended without being told to."""


class TowerError(FeatureSyncError):
    """A tower of a bundle cannot be run."""


class EmbeddedStoreError(FeatureSyncError):
    """The embedded store cannot be started."""


class FeatureStoreError(FeatureSyncError):
    """The feature store refuses what it is asked for, or its views are not applied yet."""


class LeakError(FeatureStoreError):
    """A source that cannot be joined by time, or a joined value that was not known before its label."""
