"""The description of one data set: a TOML file, as in `presets/`.

`format` chooses the reader, and each reader has its own keys, so that a key that does not belong is an error instead of
being ignored.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from tandem.contract.names import EVENT_TYPES
from trainer.core.config_problems import ConfigText, describe_problems, keys_of
from trainer.core.errors import ConfigError
from trainer.data.event_weights import EventWeights

EventType = Literal["impression", "click", "add_to_cart", "purchase", "rating", "dwell"]
TimestampUnit = Literal["seconds", "milliseconds", "microseconds", "iso"]
FileFormat = Literal["auto", "csv", "jsonl", "parquet"]
assert EventType.__args__ == EVENT_TYPES  # type: ignore[attr-defined]  # the contract decides, a Literal cannot read it

_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_ARCHIVE_KEYS: Final = frozenset({"events", "item_changes"})
_FILE_KEYS: Final = frozenset({"reviews", "meta", "folder", "path"}) | _ARCHIVE_KEYS


def is_url(path: str) -> bool:
    """Whether a configured path is fetched instead of read from disk."""
    return _URL.match(path) is not None


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _none(raw: object) -> object:
    """A word for what TOML and the command line cannot say."""
    return None if raw == "none" else raw


def _moment(raw: str) -> str:
    if raw:
        parse_until(raw)
    return raw


def parse_until(text: str) -> datetime:
    """The moment that `until` names, which it does not include: a day alone is its end; UTC where no offset is given.

    Raises ValueError for anything else than ISO 8601.
    """
    try:
        return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class DataConfig(_Section):
    """What every data set says of itself, whichever reader reads it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the folder of the prepared data, and the data set in reports."""
    format: Literal["table", "amazon", "movielens-100k"]
    """The reader."""
    min_rating: Annotated[float | None, BeforeValidator(_none)] = None
    """Interactions rated lower are dropped, and counted as `below_min_rating`. Absent or "none": every one is kept."""
    k_core: int = Field(default=0, ge=0)
    """Users and items with fewer interactions are dropped until none is left that has fewer. 0: all are kept. The items
    file stays whole: its items are still recommended, as new ones."""
    event_weights: EventWeights = EventWeights()
    """Weight of each event type."""
    rating_scale_min: float = 1.0
    """Lowest rating there can be; a lower one is a bad line."""
    rating_scale_max: float = 5.0
    """Highest rating there can be; a higher one is a bad line."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of bad lines in one file, 0 to 1, above which the run fails. Raise it for a source known to be dirty."""
    events: str = ""
    """Folder of the events that feature_sync keeps (`$TANDEM_DATA_DIR/events`): further interactions, but for
    impressions. Empty: none."""
    item_changes: str = ""
    """Folder of the catalogue changes that feature_sync keeps (`$TANDEM_DATA_DIR/item-changes`): they replace and add
    items, and take items out of recommendations. Empty: none."""
    until: Annotated[str, AfterValidator(_moment)] = ""
    """Days of `events` and `item_changes` that began before this time count, whole: an ISO 8601 time, or a day, which
    counts itself. Days that are over never change, so that the same days give the same data again. Empty: all days."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.rating_scale_min >= self.rating_scale_max:
            raise ValueError("rating_scale_min must be lower than rating_scale_max")
        return self


class FileConfig(_Section):
    """One file of a plain table."""

    path: str = Field(min_length=1)
    """Path or http(s) URL, gzip or not. A relative path is looked up in `folder`."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Checksum that the file must have. Empty: not checked."""
    file_format: FileFormat = "auto"
    """Absent: told from the name (.csv .tsv .dat .txt .inter, .json .jsonl .ndjson, .parquet; each also with .gz)."""
    delimiter: str = Field(default=",", min_length=1, max_length=4)
    """CSV: what separates fields, one to four characters, for example "\\t" or "::"."""
    quote: str = Field(default='"', max_length=1)
    """CSV: the character around fields that hold the delimiter; doubled inside a field. Empty: none."""
    header: bool = True
    """CSV: whether the first line names the columns."""
    columns: tuple[str, ...] = ()
    """CSV without a header: the names of all columns, in order."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """CSV: character encoding."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.header and self.columns:
            raise ValueError("columns is for files without a header; set header = false")
        if not self.header and not self.columns:
            raise ValueError("header = false needs columns, the names of all columns in order")
        return self


class InteractionsConfig(FileConfig):
    """The interactions file, and which of its columns mean what."""

    user: str = Field(min_length=1)
    """Column of the user's id."""
    item: str = Field(min_length=1)
    """Column of the item's id."""
    rating: str = ""
    """Column of the rating. Empty: there is none."""
    timestamp: str = ""
    """Column of the time. Empty: only `position` orders a user's interactions."""
    timestamp_unit: TimestampUnit = "seconds"
    """What `timestamp` counts since 1970, or "iso" for ISO 8601 (UTC where no offset is given)."""
    position: str = ""
    """Column of a number that grows along a user's interactions; with `timestamp`, it orders equal times."""
    event_type: str = ""
    """Column of the event type. Empty: every row is a `default_event_type`."""
    event_types: Mapping[str, EventType] = {}
    """What the values of `event_type` mean, for example {"view" = "click"}. Empty: they are our own names."""
    default_event_type: EventType = "rating"
    """Event type where there is no such column."""

    @model_validator(mode="after")
    def _check_columns_used(self) -> Self:
        if not self.timestamp and not self.position:
            raise ValueError("give timestamp or position: a user's interactions need an order")
        if self.event_types and not self.event_type:
            raise ValueError("event_types needs event_type, the column that holds the values")
        return self


class ItemsConfig(FileConfig):
    """The items file, and which of its columns mean what."""

    id: str = Field(min_length=1)
    """Column of the item's id."""
    title: str = ""
    """Column of the title."""
    description: str = ""
    """Column of the description."""
    categories: str = ""
    """Column of the categories: a list, or one string that `categories_separator` splits."""
    categories_separator: str = ""
    """What separates categories, for example "|". Empty: the column is a list, or holds one category."""
    attributes: Mapping[str, str] = {}
    """Attribute name -> column."""


class UsersConfig(FileConfig):
    """The users file, and which of its columns are features."""

    id: str = Field(min_length=1)
    """Column of the user's id."""
    features: Mapping[str, str] = {}
    """Feature name -> column."""


class TableConfig(DataConfig):
    """A plain table of interactions, optionally with tables of items and of users beside it."""

    format: Literal["table"]
    folder: str = ""
    """Folder that relative paths are looked up in. Empty: the folder of this file; of a preset, where you run."""
    interactions: InteractionsConfig
    items: ItemsConfig | None = None
    users: UsersConfig | None = None

    @model_validator(mode="after")
    def _check_min_rating(self) -> Self:
        if self.min_rating is not None and not self.interactions.rating:
            raise ValueError("min_rating needs interactions.rating, the column that holds the ratings")
        return self


class AmazonConfig(DataConfig):
    """Amazon Reviews in the official formats of 2014, 2018 and 2023."""

    format: Literal["amazon"]
    reviews: str = Field(min_length=1)
    """Reviews file: path or http(s) URL, .json or .jsonl, gzip or not."""
    reviews_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Checksum that the reviews file must have. Empty: not checked."""
    meta: str = ""
    """Metadata file: path or http(s) URL. Empty: items have no titles."""
    meta_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Checksum that the metadata file must have. Empty: not checked."""


class MovieLens100KConfig(DataConfig):
    """MovieLens-100K, fetched with pip. It has no keys of its own."""

    format: Literal["movielens-100k"]


_ANY_CONFIG: Final[TypeAdapter[TableConfig | AmazonConfig | MovieLens100KConfig]] = TypeAdapter(
    Annotated[TableConfig | AmazonConfig | MovieLens100KConfig, Field(discriminator="format")]
)
DATA_FORMATS: Final[Mapping[str, type[DataConfig]]] = {
    "table": TableConfig,
    "amazon": AmazonConfig,
    "movielens-100k": MovieLens100KConfig,
}
"""What describes a data set of each format."""


def preset_names() -> tuple[str, ...]:
    """The data sets that need no file of one's own, in alphabetical order."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _presets().iterdir() if p.name.endswith(".toml")))


def load_data_config(source: str, overrides: Mapping[str, str]) -> DataConfig:
    """Reads a data set's description: `source` is a preset's name or the path of a TOML file.

    `overrides` replace single keys, dots leading into sections: {"min_rating": "3", "interactions.path": "x.csv"}.
    Paths in overrides are relative to the working directory.

    Raises ConfigError naming the file, the line where the key stands, the key and what is allowed.
    """
    path = Path(source)
    if source in preset_names():
        text, label, base = (_presets() / f"{source}.toml").read_text(), f"preset {source}", Path.cwd()
    elif path.suffix == ".toml" and path.is_file():
        text, label, base = _read(path), str(path), path.resolve().parent
    else:
        raise ConfigError(
            f"data set {source!r}: neither a TOML file that exists nor a preset ({', '.join(preset_names())})"
        )
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: {error}") from error
    _place_paths(raw, base)
    for key, value in overrides.items():
        _override(raw, key, value)
    try:
        return _ANY_CONFIG.validate_python(raw)
    except ValidationError as error:
        written = ConfigText(label=label, text=text, overrides=overrides.keys())
        model = DATA_FORMATS.get(str(raw.get("format")), DataConfig)
        problems = describe_problems(
            error, written, lambda steps: keys_of(model, steps), skipped_steps=1, tag_key="format"
        )
        raise ConfigError(problems) from error


def preset_train_config(source: str) -> Path | None:
    """The training configuration that a preset brings for data the defaults are not best for; None without."""
    path = Path(str(_presets() / "train" / f"{source}.toml"))
    return path if source in preset_names() and path.is_file() else None


def _presets() -> Any:
    return resources.files("trainer.data") / "presets"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: unreadable: {error}") from error


def _place_paths(raw: dict[str, Any], base: Path) -> None:
    """Makes paths absolute; those inside a table's sections stay relative to its `folder`."""
    keys = _FILE_KEYS
    if raw.get("format") == "table":
        raw["folder"] = str((base / str(raw.get("folder", ""))).resolve())
        keys = _ARCHIVE_KEYS
    for key in keys & raw.keys():
        if isinstance(raw[key], str) and raw[key] and not is_url(raw[key]):
            raw[key] = str((base / raw[key]).resolve())


def _override(raw: dict[str, Any], key: str, value: str) -> None:
    *sections, last = key.split(".")
    place = raw
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {key}: {section} is not a section")
        place = inner
    place[last] = str(Path(value).resolve()) if last in _FILE_KEYS and value and not is_url(value) else value
