"""Exceptions of feature_sync.

FeatureSyncError
+-- SettingsError        a setting that cannot be used: the caller's mistake, exit code 2
+-- PreparedDataError    the folder is not prepared data, or is damaged
+-- RegistryError        the registry cannot be read, or nothing is registered under the alias
+-- StoreError           the online store cannot be reached, or stayed away for too long
+-- UserTowerError       the bundle's user tower cannot be run, or answers nonsense
+-- EmbeddedStoreError   the embedded store cannot be started

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


class UserTowerError(FeatureSyncError):
    """The user tower cannot be run."""


class EmbeddedStoreError(FeatureSyncError):
    """The embedded store cannot be started."""
