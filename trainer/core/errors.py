"""Exceptions of the trainer.

TrainerError
+-- ConfigError      a wrong setting or configuration file; the message names the key
+-- DataError        unusable source data: a missing file, too many bad lines, nothing left
+-- DownloadError    a file or package could not be fetched, or arrived damaged
+-- ExportError      a trained model cannot be exported faithfully
+-- TuningError      no trial of a study finished, or a worker process died
+-- GaugesError      the Pushgateway refuses the gauges or cannot be reached
+-- RegistryError    the MLflow registry cannot be reached, or lacks an expected entry
|   +-- AliasMoved   an alias moved to another version after the decision was made
+-- GateError        the serving engine, which the gate runs, cannot be run here
+-- PromotionError   a version must not get an alias, or there is no version to roll back to
"""


class TrainerError(Exception):
    """Root of the trainer's exceptions. The message tells the user what to change."""


class ConfigError(TrainerError):
    """A setting or configuration file is wrong. The message names the key and the allowed values."""


class DataError(TrainerError):
    """The source data cannot be used. The message names the file and, if known, the lines."""


class DownloadError(TrainerError):
    """A file or package could not be fetched, or its checksum is wrong."""


class ExportError(TrainerError):
    """A trained model cannot be exported faithfully: a tower differs from PyTorch, the index misses its recall."""


class TuningError(TrainerError):
    """A study has no finished trial, or a process that ran its trials died."""


class GaugesError(TrainerError):
    """The Pushgateway cannot be reached, or refuses the gauges."""


class RegistryError(TrainerError):
    """The MLflow registry cannot be reached, or lacks an expected entry."""


class AliasMoved(RegistryError):
    """An alias moved to another version after the decision about it was made."""


class GateError(TrainerError):
    """The serving engine cannot be run: it is not installed, or does not start with these settings."""


class PromotionError(TrainerError):
    """A version must not get an alias, or there is no version to roll back to. The message says what to do instead."""
