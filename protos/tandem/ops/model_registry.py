"""The model registry in MLflow: one model's versions, the aliases that name them, and their bundles.

MLflow is imported on first use: the import takes a second and 100 MB, and a program that is given a bundle folder does
not need it.
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tandem.contract.names import MODEL_VERSION_TAG
from tandem.ops import sqlite_registry
from tandem.ops.secrets import redacted, without_password
from tandem.ops.settings_types import sqlite_file
from tandem.ops.sqlite_registry import RegistryFileError, Schema
from tandem.ops.storage_errors import storage_error_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_T = TypeVar("_T")

# MLflow's error codes for a model, version or run that does not exist. An unset alias has the second code.
_NOT_FOUND: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})


_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_SHOWN_CHARACTERS: Final = 60


class RegistryUnreadable(Exception):
    """The registry, or a bundle that it names, cannot be read now. `__cause__` is the exception of MLflow or of a
    library that MLflow calls; None if the file of an SQLite registry is missing. The message is one line."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of the registered model."""

    number: str
    """The registry's own number."""
    model_version: str
    """Name of the bundle in its manifest, from the version's tag; empty if the version has no such tag."""
    source: str
    """URI of the bundle's folder."""
    run_id: str = field(default="", compare=False)
    """The MLflow run that registered it."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    """All tags of the version when it was read."""

    def __post_init__(self) -> None:
        """Raises ValueError unless the number is one: it names folders. Empty: the bundle of a folder."""
        if self.number and not _NUMBER.fullmatch(self.number):
            raise ValueError(f"version {self.number[:_SHOWN_CHARACTERS]!r} is not a number")


class ModelRegistry:
    """One registered model. Calls block, and are safe from several threads."""

    def __init__(
        self,
        uri: str,
        *,
        model_name: str,
        raises: type[Exception] = RegistryUnreadable,
        creates: bool = False,
    ) -> None:
        """Opens no connection; the first call does.

        `raises` is the exception of all methods when the registry cannot be read or written. With `creates`, an SQLite
        registry that is missing, or of which an interrupted creation left a part, is created. Only the trainer owns the
        registry: all other programs would serve, or publish for, an empty one.
        """
        self.uri = uri
        self.model_name = model_name
        self._raises = raises
        self._creates = creates
        self._client: MlflowClient | None = None

    @property
    def shown_uri(self) -> str:
        """The URI as messages show it, without its password."""
        return without_password(self.uri)

    def exists(self) -> bool:
        """False if the file of an SQLite registry is missing. A registry server is not contacted."""
        database = sqlite_file(self.uri)
        return database is None or database.exists()

    def aliased(self, alias: str) -> RegisteredVersion | None:
        """The version that an alias names; None if the alias does not exist."""
        return self._find(lambda client: _registered(client.get_model_version_by_alias(self.model_name, alias)))

    def numbered(self, number: str) -> RegisteredVersion | None:
        """The version with a number; None if it does not exist."""
        if not _NUMBER.fullmatch(number):
            return None
        return self._find(lambda client: _registered(client.get_model_version(self.model_name, number)))

    def has_model(self) -> bool:
        """Whether the registered model exists."""
        return self._find(lambda client: client.get_registered_model(self.model_name)) is not None

    def aliases(self) -> dict[str, str]:
        """Alias -> number of its version."""
        model = self._find(lambda client: client.get_registered_model(self.model_name))
        return {} if model is None else {alias: str(number) for alias, number in model.aliases.items()}

    def versions(self) -> list[RegisteredVersion]:
        """All versions, newest first."""
        found: list[RegisteredVersion] = []
        token = None
        with self._asked() as client:
            while True:
                page = client.search_model_versions(f"name='{self.model_name}'", page_token=token)
                found += map(_registered, page)
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: -int(version.number))

    def set_alias(self, alias: str, number: str) -> None:
        """Makes an alias name a version, also if it named another. Raises if that version does not exist."""
        with self._asked() as client:
            client.set_registered_model_alias(self.model_name, alias, number)

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
        """Sets tags of a version. An empty value means the same as no tag."""
        with self._asked() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self.model_name, version.number, name, value)

    def download(self, version: RegisteredVersion, into: Path) -> Path:
        """Copies a version's bundle into the folder `into` and returns the folder of the copy, which lies in `into` and
        holds nothing but files and folders."""
        with self._raising(f"version {version.number} from {version.source}"):
            into.mkdir(parents=True, exist_ok=True)
            local = _local_folder(version.source)
            copy = self._fetched(version.source, into) if local is None else _copied(local, into)
            if not copy.is_dir() or not copy.resolve().is_relative_to(into.resolve()):
                raise ValueError(f"{copy} is not a folder in {into}")
            for path in copy.rglob("*"):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise ValueError(f"{path.relative_to(copy)} is neither a file nor a folder")
            return copy

    def artifact_folder(self, version: RegisteredVersion) -> str | None:
        """URI of the artifacts of the run that registered a version; None if the registry does not have the run."""
        run = self._find(lambda client: client.get_run(version.run_id)) if version.run_id else None
        return None if run is None else str(run.info.artifact_uri)

    def read_artifact(self, uri: str) -> bytes | None:
        """The content of one artifact; None if it does not exist."""
        folder, _, name = uri.rpartition("/")
        with self._asked(uri), tempfile.TemporaryDirectory(prefix="tandem-artifact-") as scratch:
            from mlflow.artifacts import download_artifacts, list_artifacts

            listed = list_artifacts(artifact_uri=folder, tracking_uri=self.uri)
            if not any(file.path.rpartition("/")[2] == name and not file.is_dir for file in listed):
                return None
            return Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=self.uri)).read_bytes()

    def replace_artifact(self, version: RegisteredVersion, path: str, content: bytes) -> None:
        """Replaces an artifact of the run that registered a version; `path` is relative to `artifact_folder`."""
        folder, _, name = path.rpartition("/")
        with (
            self._asked(f"version {version.number}: {path}") as client,
            tempfile.TemporaryDirectory(prefix="tandem-artifact-") as scratch,
        ):
            (Path(scratch) / name).write_bytes(content)
            client.log_artifact(version.run_id, str(Path(scratch) / name), folder or None)

    def _fetched(self, source: str, into: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=self.uri))

    def problem(self, message: str) -> Exception:
        """The exception of this registry's methods with this message."""
        return self._raises(message)

    def _find(self, ask: Callable[[MlflowClient], _T]) -> _T | None:
        """The answer of the client; None if MLflow says that the model, version, alias or run does not exist."""
        from mlflow.exceptions import MlflowException

        with self._asked() as client:
            try:
                return ask(client)
            except MlflowException as error:
                if error.error_code in _NOT_FOUND:
                    return None
                raise

    @contextmanager
    def _asked(self, subject: str = "") -> Iterator[MlflowClient]:
        """Yields the client and turns exceptions into `raises`, whose message begins with `subject` or the URI."""
        with self._raising(subject or self.shown_uri):
            if self._client is None:
                self._client = self._opened()
            yield self._client

    @contextmanager
    def _raising(self, subject: str) -> Iterator[None]:
        """Turns exceptions into `raises`, whose message begins with `subject`."""
        if not self._creates and not self.exists():
            raise self._raises(f"{self.shown_uri}: there is no such file")
        try:
            yield
        except RegistryFileError as error:
            raise self._raises(f"{self.shown_uri}: {error}") from error
        # Exceptions of MLflow, SQLAlchemy, requests and the operating system all mean the same here.
        except Exception as error:
            raise self._raises(f"{redacted(subject)}: {redacted(one_line(error))}") from error

    def _opened(self) -> MlflowClient:
        from mlflow import MlflowClient

        # MLflow logs SQL errors with a traceback, and raises them as well.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        database = sqlite_file(self.uri)
        if database is not None and self._creates:
            sqlite_registry.ensure(database, installed_schema(), _create_tables)
        elif database is not None:
            sqlite_registry.check(database, installed_schema())
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


def one_line(error: Exception) -> str:
    """The line of an exception's message that says why: SQLAlchemy's begin with advice at times, and end in the SQL.

    Where the line only announces the reason, as for a list of files, the first reason follows it.
    """
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(("(raised as a result", "#####"))]
    if not lines:
        return repr(error)
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _local_folder(source: str) -> Path | None:
    """The folder that a URI or path names on this machine, read as MLflow reads it; None if it is elsewhere."""
    if source.startswith("file:"):
        return Path(url2pathname(urlsplit(source).path))
    return Path(url2pathname(source)) if source.startswith("/") else None


def _copied(folder: Path, into: Path) -> Path:
    """A copy of a folder, below `into`. MLflow would copy it as well, but takes seconds to be imported."""
    if into.resolve().is_relative_to(folder.resolve()):
        raise ValueError("the folder contains the one that it would be copied to")
    return Path(shutil.copytree(folder, into / folder.name, dirs_exist_ok=True, copy_function=_copy_file))


def _copy_file(source: str, target: str) -> str:
    """Copies a file. `copytree` would go on after an OSError, on a full disk too, and list all of them at the end."""
    try:
        return shutil.copy2(source, target)
    except OSError as error:
        raise ValueError(storage_error_line(error)) from error


def _create_tables(database: Path) -> None:
    """Has MLflow create a registry in a new file."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{database}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)


@functools.cache
def installed_schema() -> Schema:
    """The versions of the schema that the installed MLflow knows."""
    import mlflow
    from alembic.script import ScriptDirectory

    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return Schema(
        head=migrations.get_current_head() or "",
        known=frozenset(script.revision for script in migrations.walk_revisions()),
    )


def _registered(found: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        number=str(found.version),
        model_version=found.tags.get(MODEL_VERSION_TAG, ""),
        source=str(found.source or ""),
        run_id=str(found.run_id or ""),
        tags=dict(found.tags),
    )
