"""The data stage: source files -> a folder of clean Parquet, written once per content and configuration.

    fetch -> read (one reader per format) -> leave out deleted users -> clean -> write

A prepared folder holds `interactions.parquet`, `items.parquet`, `users.parquet`, `low_rated.parquet` and, written
last, `prepared.json`.
Whoever opens it reads all of it once, to compare it with the checksums in `prepared.json`: a damaged file is never
trained from.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from tandem.contract import names
from tandem.contract.checksums import DamagedFile, check_files, file_sha256
from tandem.contract.deleted_users import DeletedUsers
from tandem.contract.numbers import finite_json
from tandem.contract.whole_files import read_whole
from tandem.ops.deleted_users_file import deleted_users_settled, read_deleted_users
from tandem.ops.file_lock import file_lock
from trainer.core.errors import DataError
from trainer.core.settings import EngineName
from trainer.data.amazon import read_amazon
from trainer.data.archive import Archive, find_archive
from trainer.data.checks import Finding, check, findings_text, findings_to_dicts
from trainer.data.clean import Cleaned, StagedData, clean
from trainer.data.config import AmazonConfig, DataConfig, FileConfig, MovieLens100KConfig, TableConfig
from trainer.data.defects import identified_rows, interaction_rows
from trainer.data.deleted_users import refuse_deleted_users, without_deleted_users
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.engine import Engine
from trainer.data.events import stage_events
from trainer.data.item_changes import stage_changes
from trainer.data.movielens import fetch_movielens_100k, read_movielens_100k
from trainer.data.raw import RawData
from trainer.data.report import CleaningReport
from trainer.data.source_files import source_files
from trainer.data.spark_engine import SparkEngine
from trainer.data.stage import stage
from trainer.data.table import read_table
from trainer.data.whole_ids import with_whole_ids

log = structlog.get_logger()

_LAYOUT: Final = 9
"""Part of the hash in every folder's name. Increase it when the same source is cleaned or written differently."""
_PREPARED_FILE: Final = "prepared.json"
_PATH_KEYS: Final = frozenset({"path", "reviews", "meta"})
_LOCATION_KEYS: Final = frozenset({"folder", "events", "item_changes", "until"})
"""Keys that only locate sources, which are not part of the hash: it includes the content of the files instead."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A data set, clean and complete on disk."""

    directory: Path
    """Holds interactions.parquet (the columns of `clean.INTERACTION_COLUMNS`; by user, then time), items.parquet
    (item_id, title, description, categories, attributes, available; by id), users.parquet (user_id and a nullable
    column for each feature; by id) and low_rated.parquet (user_id, item_id, num_events_before; by user: what a user
    rated below `min_rating`, and how many of their interactions came before)."""
    name: str
    fingerprint: str
    """SHA-256 over the Parquet files: equal data has an equal fingerprint, whatever its source."""
    report: CleaningReport
    num_users: int
    num_items: int
    num_interactions: int
    feature_names: tuple[str, ...]
    """User features: the columns of the users file except the id."""
    findings: tuple[Finding, ...] = ()
    """What looks wrong, see `checks`; nothing that fails the run."""
    num_events: int = 0
    """Number of archived events that were cleaned with the interactions, without impressions."""
    newest_day: str = ""
    """The newest selected day of events or catalogue changes, YYYY-MM-DD; empty if there is none."""
    catalogue_sequence: int = 0
    """The last catalogue change that the items include (`streams.AppliedItemChange.sequence`)."""
    min_rating: float | None = None
    """The data set's `min_rating`."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """The data set's `event_weights`."""

    def counts(self) -> dict[str, str | int]:
        """Name, fingerprint and counts, for the next program."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "num_users": self.num_users,
            "num_items": self.num_items,
            "num_interactions": self.num_interactions,
            "num_events": self.num_events,
            "newest_day": self.newest_day,
            "catalogue_sequence": self.catalogue_sequence,
        }


def prepare(source: DataConfig | PreparedData, data_dir: Path, *, engine: EngineName = "duckdb") -> PreparedData:
    """Prepares a data set below `data_dir`, or finds it there if the same configuration and content was prepared.

    Prepared data is returned as it is. All engines write the same bytes, so data that one engine prepared is found by
    every other engine. A damaged folder is prepared again. Of processes that prepare the same data at once, one does
    it, and the others wait for it.

    What the register of deleted users of `data_dir` says is left out. Prepared data that were given and hold such a
    user are refused.

    Raises OSError (a full disk), ConfigError (a wrong column or path in the configuration, an engine that is not
    installed), DataError (unreadable files, too many bad lines, nothing left, a deleted user), DownloadError and
    DeletedUsersUnreadable.
    """
    if isinstance(source, PreparedData):
        refuse_deleted_users(source.directory, read_deleted_users(data_dir))
        return source
    config = source
    files = _fetch(config, data_dir / "downloads")
    while True:
        sources = _Sources(files, find_archive(config), read_deleted_users(data_dir))
        if (prepared := _prepared(config, sources, data_dir, engine)) is not None:
            return prepared
        log.info("prepared_again", reason="a user was deleted meanwhile")


def _prepared(config: DataConfig, sources: _Sources, data_dir: Path, engine: EngineName) -> PreparedData | None:
    """The data of these sources, found or prepared now; None if a user was deleted meanwhile."""
    directory = data_dir / "prepared" / f"{config.name}-{_key(config, sources)}"
    if (found := _found(directory)) is not None:
        return found
    directory.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(
        directory.with_name(f".{directory.name}.lock"),
        on_wait=lambda: log.info("waiting_for_another_process", prepares=str(directory)),
    ):
        if (found := _found(directory)) is None and not _write(config, sources, directory, engine, data_dir):
            return None
    return found or load_prepared(directory)


def _found(directory: Path) -> PreparedData | None:
    """The data that was prepared before; None if there is none, or if the folder is damaged."""
    if not directory.exists():
        return None
    try:
        return load_prepared(directory)
    except DataError as error:
        log.warning("prepared_again", reason=str(error))
        return None


@dataclass(frozen=True)
class _Sources:
    """All that decides what prepared data hold, beside the configuration."""

    files: Mapping[str, tuple[Path, ...]]
    """Local paths by role."""
    archive: Archive
    deleted: DeletedUsers


def _write(config: DataConfig, sources: _Sources, directory: Path, engine: EngineName, data_dir: Path) -> bool:
    """Prepares the data, which appear in `directory` complete or not at all. The caller holds the folder's lock.

    Returns False, and leaves nothing, if a user was deleted meanwhile.
    """
    for left in directory.parent.glob(f".{directory.name}-*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        work_dir, staging = Path(scratch) / "work", Path(scratch) / "prepared"
        work_dir.mkdir()
        staging.mkdir()
        with DuckDBEngine(work_dir) as reader, _cleaning_engine(engine, reader) as cleaning_engine:
            staged = _stage(reader, _read(reader, config, sources.files), config)
            staged = with_whole_ids(reader, _with_archive(reader, staged, config, sources.archive))
            staged = without_deleted_users(reader, staged, sources.deleted)
            cleaned = clean(cleaning_engine, staged, config, staging)
            findings = check(reader, staged, cleaned, config.checks)
        if any(finding.level == "fail" for finding in findings):
            raise DataError(
                f"{config.name}: the data look wrong; a limit is a key, for example checks.{findings[0].check}_fail\n"
                f"{cleaned.report.to_text()}\n{findings_text(findings)}"
            )
        description = _description(config, cleaned, staged, sources.archive)
        description["findings"] = findings_to_dicts(findings)
        (staging / _PREPARED_FILE).write_text(finite_json(description, indent=2, ensure_ascii=False))
        # Whoever deletes a user writes the register first, and then looks for folders: it finds this one, or is seen.
        with deleted_users_settled(data_dir):
            if read_deleted_users(data_dir) != sources.deleted:
                return False
            if directory.exists():
                shutil.rmtree(directory)  # it is damaged
            staging.rename(directory)
        return True


def load_prepared(directory: Path) -> PreparedData:
    """Opens a prepared folder and verifies its files, at the cost of reading them once.

    Raises DataError if it is not a prepared folder, has the layout of other code, or a file is missing or damaged.
    """
    raw = _read_description(directory)
    if "event_weights" not in raw:
        raise DataError(
            f"{directory}: an earlier release prepared these data, without the counts of events: prepare again"
        )
    try:
        checksums = dict(raw.pop("files"))
        prepared = PreparedData(
            directory=directory,
            **{
                **raw,
                "report": CleaningReport.from_dict(raw["report"]),
                "findings": tuple(Finding(**finding) for finding in raw["findings"]),
                "feature_names": tuple(raw["feature_names"]),
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_description(directory, error) from error
    try:
        check_files(directory, checksums)
    except DamagedFile as error:
        raise DataError(f"{error}; delete {directory} to prepare it again") from error
    return prepared


def prepared_name(directory: Path) -> str:
    """Name of prepared data, without opening them. Raises DataError if the folder has no description."""
    try:
        return str(_read_description(directory)["name"])
    except KeyError as error:
        raise _no_description(directory, error) from error


def _read_description(directory: Path) -> dict[str, Any]:
    """What `prepare` wrote about the folder. Raises DataError."""
    try:
        raw: dict[str, Any] = json.loads(read_whole(directory / _PREPARED_FILE))
        raw["name"]
    except OSError as error:
        raise DataError(
            f"{directory / _PREPARED_FILE}: not a description of prepared data: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _no_description(directory, error) from error
    return raw


def _no_description(directory: Path, error: Exception) -> DataError:
    return DataError(
        f"{directory / _PREPARED_FILE}: not a description of prepared data: {error}; delete {directory} to prepare it "
        "again"
    )


def _fetch(config: DataConfig, downloads: Path) -> dict[str, tuple[Path, ...]]:
    """Local paths of all source files, by their role."""
    match config:
        case MovieLens100KConfig():
            return {name: (path,) for name, path in fetch_movielens_100k(downloads).items()}
        case AmazonConfig():
            files = {"reviews": source_files(config.reviews, sha256=config.reviews_sha256, downloads=downloads)}
            if config.meta:
                files["meta"] = source_files(config.meta, sha256=config.meta_sha256, downloads=downloads)
            return files
        case TableConfig():
            sections: Mapping[str, FileConfig | None] = {
                "interactions": config.interactions,
                "items": config.items,
                "users": config.users,
            }
            return {
                name: source_files(section.path, sha256=section.sha256, folder=Path(config.folder), downloads=downloads)
                for name, section in sections.items()
                if section is not None
            }
        case _:
            raise AssertionError(f"no reader for {type(config).__name__}")


def _read(reader: DuckDBEngine, config: DataConfig, files: Mapping[str, tuple[Path, ...]]) -> RawData:
    match config:
        case MovieLens100KConfig():
            return read_movielens_100k(reader, config, files)
        case AmazonConfig():
            return read_amazon(reader, files)
        case TableConfig():
            return read_table(reader, config, files)
        case _:
            raise AssertionError(f"no reader for {type(config).__name__}")


def _stage(reader: DuckDBEngine, raw: RawData, config: DataConfig) -> StagedData:
    interactions, items, users = raw.interactions, raw.items, raw.users
    return StagedData(
        interactions=stage(reader, interactions, interaction_rows(interactions.rows, raw.rules, config), config),
        items=None if items is None else stage(reader, items, identified_rows(items.rows, names.ITEM_ID), config),
        users=None if users is None else stage(reader, users, identified_rows(users.rows, names.USER_ID), config),
        feature_names=raw.feature_names,
    )


def _with_archive(reader: DuckDBEngine, staged: StagedData, config: DataConfig, archive: Archive) -> StagedData:
    changes = archive.item_changes
    return replace(
        staged,
        events=stage_events(reader, config, archive.events) if archive.events else None,
        item_changes=stage_changes(reader, Path(config.item_changes), changes) if changes else None,
    )


def _cleaning_engine(name: EngineName, reader: DuckDBEngine) -> AbstractContextManager[Engine]:
    return SparkEngine(reader.work_dir) if name == "spark" else nullcontext(reader)


def _key(config: DataConfig, sources: _Sources) -> str:
    """Hash of the configuration, the content of the files, without their locations, and who was deleted."""
    described = {
        "layout": _LAYOUT,
        "config": _without_locations(config.model_dump(mode="json", exclude=set(_LOCATION_KEYS))),
        "files": {name: [file_sha256(path) for path in paths] for name, paths in sources.files.items()}
        | {name: file_sha256(path) for name, path in sources.archive.files().items()},
    }
    if sources.deleted:
        described["deleted_users"] = hashlib.sha256(sources.deleted.to_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _without_locations(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _names(inner) if key in _PATH_KEYS and inner is not None else _without_locations(inner)
            for key, inner in value.items()
        }
    return value


def _names(paths: str | list[str]) -> str | list[str]:
    return Path(paths).name if isinstance(paths, str) else [Path(path).name for path in paths]


def _description(config: DataConfig, cleaned: Cleaned, staged: StagedData, archive: Archive) -> dict[str, Any]:
    checksums = {path.name: file_sha256(path) for path in cleaned.files}
    return {
        "name": config.name,
        "min_rating": config.min_rating,
        "event_weights": config.event_weights.model_dump(),
        "fingerprint": hashlib.sha256("".join(checksums.values()).encode()).hexdigest(),
        "files": checksums,
        "num_users": cleaned.num_users,
        "num_items": cleaned.num_items,
        "num_interactions": cleaned.num_interactions,
        "feature_names": staged.feature_names,
        "num_events": 0 if staged.events is None else staged.events.num_good,
        "newest_day": archive.newest_day,
        "catalogue_sequence": 0 if staged.item_changes is None else staged.item_changes.last_sequence,
        "report": cleaned.report.to_dict(),
    }
