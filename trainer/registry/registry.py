"""Runs and the model registry. The only module of the trainer that imports MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tandem.contract import names
from trainer.core.errors import RegistryError
from trainer.core.settings import Settings

EVALUATIONS = "evaluations"
"""The artifact of a run that holds its evaluations, see `trainer.results.saved_evaluations`."""
WEIGHTS = "weights"
"""The artifact of a run that a later training can go on from, see `trainer.training.previous_model`."""
WARM_START_TAG = "tandem.warm_started_from"
TRAINING_FINGERPRINT_TAG = "tandem.training_fingerprint"
DATA_VERSION_TAG = "tandem.data_version"
GATE_TAG = "tandem.gate"
"""On a version: the gate's last verdict, GATE_PASSED or GATE_REFUSED."""
GATE_AGAINST_TAG = "tandem.gate_against"
"""On a version: the number of the champion that the verdict was made against; empty where there was none."""
GATE_PASSED, GATE_REFUSED = "passed", "refused"
ROLLED_BACK_TAG = "tandem.rolled_back_at"
"""On a version: when the champion's alias was taken from it by `rollback`, ISO 8601, UTC."""
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second is what an unset alias raises


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of the registered model."""

    number: str
    model_version: str
    """The bundle's own name."""
    training_fingerprint: str
    """Of the data and the configuration it was trained with."""
    source: str
    run_id: str
    """The MLflow run that registered it."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The gate's verdict among others."""


class Run:
    """One MLflow run."""

    def __init__(self, run_id: str, artifact_uri: str) -> None:
        self.run_id = run_id
        self.artifact_uri = artifact_uri

    def log_params(self, params: Mapping[str, object]) -> None:
        """Logs parameters by dotted name."""
        mlflow.log_params(dict(params))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags the run."""
        mlflow.set_tags(dict(tags))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Logs metrics, of an epoch where `step` is given. MLflow has no "@" in names: it is logged as "_at_"."""
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step=step)

    def log_text(self, text: str, name: str) -> None:
        """Logs a text file."""
        mlflow.log_text(text, name)

    def log_directory(self, directory: Path, name: str) -> None:
        """Logs a folder's files under a name."""
        mlflow.log_artifacts(str(directory), name)

    def log_bundle(self, directory: Path) -> str:
        """Logs the bundle's files; returns their artifact URI."""
        mlflow.log_artifacts(str(directory), names.BUNDLE_ARTIFACT_PATH)
        return f"{self.artifact_uri}/{names.BUNDLE_ARTIFACT_PATH}"


class Registry:
    """The registered model and its alias. Methods raise RegistryError when the registry cannot be reached."""

    def __init__(self, settings: Settings) -> None:
        if settings.registry_uri.startswith("sqlite:///"):
            Path(settings.registry_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(settings.registry_uri)
        mlflow.set_registry_uri(settings.registry_uri)
        self._settings = settings
        self._client = MlflowClient(settings.registry_uri, settings.registry_uri)

    def champion(self) -> RegisteredVersion | None:
        """The version under the alias; None when there is none yet."""
        return self.aliased(self._settings.model_alias)

    def aliased(self, alias: str) -> RegisteredVersion | None:
        """The version under any alias; None when there is none."""
        try:
            return _version_of(self._client.get_model_version_by_alias(self._settings.model_name, alias))
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                return None
            raise self._error(error) from error

    def aliases(self) -> dict[str, str]:
        """Numbers of versions by alias."""
        try:
            model = self._client.get_registered_model(self._settings.model_name)
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                return {}
            raise self._error(error) from error
        return {alias: str(number) for alias, number in model.aliases.items()}

    def versions(self) -> list[RegisteredVersion]:
        """All versions, the newest first."""
        found: list[RegisteredVersion] = []
        token = None
        try:
            while True:
                page = self._client.search_model_versions(f"name='{self._settings.model_name}'", page_token=token)
                found += map(_version_of, page)
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: -int(version.number))
        except MlflowException as error:
            raise self._error(error) from error

    def find(self, name: str) -> RegisteredVersion:
        """The version of that number, or else under that alias. Raises RegistryError when there is none."""
        model = self._settings.model_name
        try:
            if name.isdecimal():
                return _version_of(self._client.get_model_version(model, name))
            return _version_of(self._client.get_model_version_by_alias(model, name))
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                kind = "version" if name.isdecimal() else "alias"
                raise RegistryError(f"{self._settings.registry_uri}: {model} has no {kind} {name!r}") from error
            raise self._error(error) from error

    @contextmanager
    def start_run(self, name: str, *, run_id: str = "", parent_run_id: str = "") -> Iterator[Run]:
        """A run in the experiment named after the model; it is marked failed when the block raises.

        With `run_id` that run goes on, unless the registry does not hold it; with `parent_run_id` it is a child.
        """
        try:
            experiment = mlflow.get_experiment_by_name(self._settings.model_name)
            if experiment is None:
                mlflow.create_experiment(self._settings.model_name, artifact_location=self._settings.artifact_location)
            mlflow.set_experiment(self._settings.model_name)
        except MlflowException as error:
            raise self._error(error) from error
        with mlflow.start_run(
            run_id=run_id if run_id and self._holds_run(run_id) else None,
            run_name=name,
            parent_run_id=parent_run_id or None,
            nested=bool(parent_run_id),
        ) as active:
            yield Run(active.info.run_id, active.info.artifact_uri)

    def _holds_run(self, run_id: str) -> bool:
        try:
            return str(self._client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                return False
            raise self._error(error) from error

    def register(self, run: Run, source: str, *, model_version: str, training_fingerprint: str) -> RegisteredVersion:
        """A new version of the registered model, from a bundle that was logged. It moves no alias."""
        try:
            self._client.get_registered_model(self._settings.model_name)
        except MlflowException:
            self._client.create_registered_model(self._settings.model_name)
        created = self._client.create_model_version(
            self._settings.model_name,
            source=source,
            run_id=run.run_id,
            tags={names.MODEL_VERSION_TAG: model_version, TRAINING_FINGERPRINT_TAG: training_fingerprint},
        )
        return RegisteredVersion(str(created.version), model_version, training_fingerprint, source, run.run_id)

    def set_alias(self, alias: str, version: RegisteredVersion) -> None:
        """Has an alias name a version, whatever it named before."""
        try:
            self._client.set_registered_model_alias(self._settings.model_name, alias, version.number)
        except MlflowException as error:
            raise self._error(error) from error

    def delete_alias(self, alias: str) -> None:
        """Takes an alias away."""
        try:
            self._client.delete_registered_model_alias(self._settings.model_name, alias)
        except MlflowException as error:
            raise self._error(error) from error

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
        """Sets tags of a version; an empty value takes a tag's meaning away, whether it is there or not."""
        try:
            for name, value in tags.items():
                self._client.set_model_version_tag(self._settings.model_name, version.number, name, value)
        except MlflowException as error:
            raise self._error(error) from error

    def record(self, version: RegisteredVersion, directory: Path, name: str, metrics: Mapping[str, float]) -> str:
        """Logs a folder's files and metrics to the run that registered a version, whether it is over or not.

        Returns the URI of the folder among the run's artifacts.
        """
        try:
            self._client.log_artifacts(version.run_id, str(directory), name)
            for metric, value in metrics.items():
                self._client.log_metric(version.run_id, metric.replace("@", "_at_"), value)
            return f"{self._client.get_run(version.run_id).info.artifact_uri}/{name}"
        except (MlflowException, OSError) as error:
            raise RegistryError(f"run {version.run_id!r} of version {version.number}: {error}") from error

    def metrics(self, version: RegisteredVersion) -> dict[str, float]:
        """The last value of each metric of the run that registered a version; empty where the run is gone."""
        try:
            logged = self._client.get_run(version.run_id).data.metrics
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                return {}
            raise self._error(error) from error
        return {name.replace("_at_", "@"): value for name, value in logged.items()}

    def _error(self, error: MlflowException) -> RegistryError:
        return RegistryError(f"{self._settings.registry_uri}: {error.message}")

    def download(self, version: RegisteredVersion, directory: Path) -> Path:
        """A copy of a version's bundle in `directory`; the registry's own files are never handed out."""
        directory.mkdir(parents=True, exist_ok=True)
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(directory)))
        except (MlflowException, OSError) as error:
            raise RegistryError(f"bundle of version {version.number}: {error}") from error

    def download_artifacts(self, version: RegisteredVersion, name: str, directory: Path) -> Path:
        """A copy of what the run of a version logged under a name. Raises RegistryError where it logged none."""
        directory.mkdir(parents=True, exist_ok=True)
        try:
            found = mlflow.artifacts.download_artifacts(
                run_id=version.run_id, artifact_path=name, dst_path=str(directory)
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(f"version {version.number} has no {name}: {error}") from error
        return Path(found)


def _version_of(found: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        str(found.version),
        found.tags.get(names.MODEL_VERSION_TAG, ""),
        found.tags.get(TRAINING_FINGERPRINT_TAG, ""),
        str(found.source),
        str(found.run_id or ""),
        dict(found.tags),
    )
