"""Runs and the model registry. The only module of the trainer that imports MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from tandem.contract import names
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion, one_line
from trainer.core.errors import RegistryError
from trainer.core.settings import Settings

EVALUATIONS = "evaluations"
"""Artifact of a run with its evaluations, see `trainer.results.saved_evaluations`."""
WEIGHTS = "weights"
"""Artifact of a run from which a later training can continue, see `trainer.training.previous_model`."""
WARM_START_TAG = "tandem.warm_started_from"
TRAINING_FINGERPRINT_TAG = "tandem.training_fingerprint"
DATA_VERSION_TAG = "tandem.data_version"


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
        """Logs metrics; `step` is the epoch, if any. MLflow allows no "@" in names, so it becomes "_at_"."""
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step=step)

    def log_text(self, text: str, name: str) -> None:
        """Logs a text file."""
        mlflow.log_text(text, name)

    def log_directory(self, directory: Path, name: str) -> None:
        """Logs a folder's files under an artifact path `name`."""
        mlflow.log_artifacts(str(directory), name)

    def log_bundle(self, directory: Path) -> str:
        """Logs the bundle's files; returns their artifact URI."""
        mlflow.log_artifacts(str(directory), names.BUNDLE_ARTIFACT_PATH)
        return f"{self.artifact_uri}/{names.BUNDLE_ARTIFACT_PATH}"


class Registry(ModelRegistry):
    """The registered model and the runs behind it. Methods raise RegistryError when the registry cannot be reached."""

    def __init__(self, settings: Settings) -> None:
        mlflow.set_tracking_uri(settings.registry_uri)
        mlflow.set_registry_uri(settings.registry_uri)
        super().__init__(settings.registry_uri, model_name=settings.model_name, raises=RegistryError, creates=True)
        self._settings = settings

    def champion(self) -> RegisteredVersion | None:
        """The version that the champion's alias names; None if there is none yet."""
        return self.aliased(self._settings.model_alias)

    def find(self, name: str) -> RegisteredVersion:
        """The version with this number or alias. Raises RegistryError if there is none."""
        is_number = name.isascii() and name.isdigit()
        kind, found = ("version", self.numbered(name)) if is_number else ("alias", self.aliased(name))
        if found is None:
            raise RegistryError(f"{self.shown_uri}: {self.model_name} has no {kind} {name!r}")
        return found

    @contextmanager
    def start_run(self, name: str, *, run_id: str = "", parent_run_id: str = "") -> Iterator[Run]:
        """A run in the experiment named after the model; it is marked as failed if the block raises.

        Raises RegistryError if the registry fails, in the block too: the run's methods raise what MLflow raises.

        With `run_id`, that run continues if the registry has it. With `parent_run_id`, the run is a child of that run.
        """
        with self._asked():
            if mlflow.get_experiment_by_name(self.model_name) is None:
                with _unless_it_exists():
                    mlflow.create_experiment(self.model_name, artifact_location=self._settings.artifact_location)
            mlflow.set_experiment(self.model_name)
        try:
            with mlflow.start_run(
                run_id=run_id if run_id and self._holds_run(run_id) else None,
                run_name=name,
                parent_run_id=parent_run_id or None,
                nested=bool(parent_run_id),
            ) as active:
                yield Run(active.info.run_id, active.info.artifact_uri)
        except MlflowException as error:
            raise RegistryError(f"{self.shown_uri}: {one_line(error)}") from error

    def _holds_run(self, run_id: str) -> bool:
        run = self._find(lambda client: client.get_run(run_id))
        return run is not None and str(run.info.lifecycle_stage) == "active"

    def register(self, run: Run, source: str, *, model_version: str, training_fingerprint: str) -> RegisteredVersion:
        """Registers a logged bundle as a new version of the model. No alias moves."""
        tags = {names.MODEL_VERSION_TAG: model_version, TRAINING_FINGERPRINT_TAG: training_fingerprint}
        is_new = self._find(lambda client: client.get_registered_model(self.model_name)) is None
        with self._asked() as client:
            if is_new:
                with _unless_it_exists():
                    client.create_registered_model(self.model_name)
            created = client.create_model_version(self.model_name, source=source, run_id=run.run_id, tags=tags)
        return RegisteredVersion(str(created.version), model_version, source, run_id=run.run_id, tags=tags)

    def delete_alias(self, alias: str) -> None:
        """Deletes an alias."""
        with self._asked() as client:
            client.delete_registered_model_alias(self.model_name, alias)

    def record(self, version: RegisteredVersion, directory: Path, name: str, metrics: Mapping[str, float]) -> str:
        """Logs a folder's files and metrics to the run that registered a version, even if that run has ended.

        Returns the artifact URI of the folder.
        """
        with self._asked(f"run {version.run_id!r} of version {version.number}") as client:
            client.log_artifacts(version.run_id, str(directory), name)
            for metric, value in metrics.items():
                client.log_metric(version.run_id, metric.replace("@", "_at_"), value)
            return f"{client.get_run(version.run_id).info.artifact_uri}/{name}"

    def metrics(self, version: RegisteredVersion) -> dict[str, float]:
        """The last value of each metric of the run that registered a version; empty if the run was deleted."""
        run = self._find(lambda client: client.get_run(version.run_id))
        return {} if run is None else {name.replace("_at_", "@"): value for name, value in run.data.metrics.items()}

    def download_artifacts(self, version: RegisteredVersion, name: str, directory: Path) -> Path:
        """Downloads the artifact `name` of a version's run. Raises RegistryError if the run has none."""
        directory.mkdir(parents=True, exist_ok=True)
        try:
            found = mlflow.artifacts.download_artifacts(
                run_id=version.run_id, artifact_path=name, dst_path=str(directory)
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(f"version {version.number} has no {name}: {error}") from error
        return Path(found)


@contextmanager
def _unless_it_exists() -> Iterator[None]:
    """Lets a creation pass that another process, which saw as little as this one, has just done."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
