"""Exceptions of the trainer.

TrainerError
+-- ConfigError      a setting or a configuration file that is wrong: the caller's mistake, named by key
+-- DataError        source data that cannot be used: missing file, too many bad lines, nothing left
+-- DownloadError    a file or package that could not be fetched, or that arrived damaged
+-- ExportError      a trained model that cannot be exported faithfully
+-- TuningError      a study without a finished trial, or whose worker died
+-- GaugesError      the Pushgateway does not take the gauges
+-- RegistryError    the MLflow registry cannot be reached, or holds what it should not
|   +-- AliasMoved   an alias names another version than the one that a decision was made about
+-- GateError        the serving engine, which the gate asks, cannot be asked here
+-- PromotionError   a version that must not be given an alias, or a way back that does not exist
"""


class TrainerError(Exception):
    """Root of the trainer's exceptions. The message is one that a user can act on."""


class ConfigError(TrainerError):
    """A setting or configuration file is wrong. The message names the key and what is allowed."""


class DataError(TrainerError):
    """The source data cannot be used. The message names the file and, where there are some, the lines."""


class DownloadError(TrainerError):
    """A file or package could not be fetched, or its checksum is wrong."""


class ExportError(TrainerError):
    """A trained model cannot be exported faithfully: a tower differs from PyTorch, the index misses its recall."""


class TuningError(TrainerError):
    """A study has no finished trial, or a process that ran its trials died."""


class GaugesError(TrainerError):
    """The Pushgateway cannot be reached, or does not take the gauges."""


class RegistryError(TrainerError):
    """The MLflow registry cannot be reached, or lacks what it should hold."""


class AliasMoved(RegistryError):
    """An alias names another version by now than the one that a decision was made about."""


class GateError(TrainerError):
    """The serving engine cannot be asked: not installed, or not to be started with these settings."""


class PromotionError(TrainerError):
    """A version that must not be given an alias, or no version to go back to. The message says what to do instead."""
