"""The item table: what serving knows about the catalogue, in one Arrow file that workers map and share.

Only this module and `impression_table` import pyarrow in the contract.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tandem.contract import names
from tandem.contract.errors import BundleCorrupt
from tandem.contract.numbers import parsed_number

SCHEMA = pa.schema(
    [
        pa.field(names.ITEM_ID, pa.string(), nullable=False),
        pa.field(names.TITLE, pa.string(), nullable=False),
        pa.field(names.CATEGORIES, pa.list_(pa.string()), nullable=False),
        pa.field(names.ATTRIBUTES, pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field(names.POPULARITY, pa.int64(), nullable=False),
        pa.field(names.AVAILABLE, pa.bool_(), nullable=False),
    ]
)
_SCHEMA_WITHOUT_AVAILABLE: Final = pa.schema([field for field in SCHEMA if field.name != names.AVAILABLE])

_ROWS: Final = "rows"
_CATEGORY_ROWS: Final = pa.schema(
    [
        pa.field(names.CATEGORIES, pa.string(), nullable=False),
        pa.field(_ROWS, pa.list_(pa.int64()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Item:
    """One row of the item table."""

    item_id: str
    title: str
    categories: tuple[str, ...]
    attributes: Mapping[str, str]
    popularity: int
    """Number of interactions in the training data."""
    available: bool = True
    """False: the item may be in histories but is never recommended."""


@dataclass(frozen=True)
class AttributeColumn:
    """One attribute of all items."""

    codes: npt.NDArray[np.int32]
    """(items,) int32: index into `values`; -1 if the item lacks the attribute."""
    values: tuple[str, ...]
    numbers: npt.NDArray[np.float64] | None
    """(values,) float64, NaN for a value that is NaN or infinite; None unless every value is a number, at least one of
    them finite."""

    @property
    def has_numbers(self) -> bool:
        """Whether some value is a number."""
        return self.numbers is not None or any(_is_number(text) for text in self.values)


class ItemTable:
    """The catalogue in row order: row i is row i of the item vectors and of the vocabulary.

    Numeric columns become numpy arrays over the mapped memory: pyarrow's own conversion would import pandas if it is
    installed, which takes 28 MB and half a second.
    """

    def __init__(self, table: pa.Table) -> None:
        """Wraps a table of `SCHEMA`. Raises BundleCorrupt when its columns differ.

        Bundle formats before 4 have no column of availability: all items are available.
        """
        if table.schema.equals(_SCHEMA_WITHOUT_AVAILABLE):
            table = table.append_column(SCHEMA.field(names.AVAILABLE), pa.array([True] * len(table), pa.bool_()))
        if not table.schema.equals(SCHEMA):
            raise BundleCorrupt(f"item table: columns {table.schema.names} with their types are not {SCHEMA.names}")
        self._table = table.combine_chunks()
        self._id_offsets, self._id_bytes = _text_memory(_column(self._table, names.ITEM_ID))
        self._titles = _column(self._table, names.TITLE)

    @classmethod
    def from_items(cls, items: Iterable[Item]) -> ItemTable:
        """A table with one row per item, in the given order."""
        rows = list(items)
        categories = [category for item in rows for category in item.categories]
        attributes = [pair for item in rows for pair in item.attributes.items()]
        # Column by column: a hundred times as fast as row by row, and servers do it when the live catalogue changes.
        columns = [
            _texts([item.item_id for item in rows]),
            _texts([item.title for item in rows]),
            pa.ListArray.from_arrays(_ends([len(item.categories) for item in rows]), _texts(categories)),
            pa.MapArray.from_arrays(
                _ends([len(item.attributes) for item in rows]),
                _texts([name for name, _ in attributes]),
                _texts([value for _, value in attributes]),
            ),
            _row_numbers([item.popularity for item in rows]),
            _flags([item.available for item in rows]),
        ]
        return cls(pa.Table.from_arrays(columns, schema=SCHEMA))

    @classmethod
    def read(cls, path: Path) -> ItemTable:
        """Maps a table into memory. Raises BundleCorrupt when the file is unreadable or has other columns."""
        try:
            with pa.memory_map(str(path)) as source:
                return cls(pa.ipc.open_file(source).read_all())
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise BundleCorrupt(f"item table: {path.name} is unreadable: {error}") from error

    def write(self, path: Path) -> None:
        """Writes the table as an uncompressed Arrow file, which readers can map."""
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(self._table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def item_ids(self, rows: Iterable[int]) -> list[str]:
        """Ids of rows."""
        row_array = rows if isinstance(rows, np.ndarray) else np.fromiter(rows, dtype=np.int64)
        # Decoded from the mapped bytes: pyarrow takes longer for the ten ids of an answer than all other work on them.
        memory = self._id_bytes
        starts, ends = self._id_offsets[row_array].tolist(), self._id_offsets[row_array + 1].tolist()
        return [str(memory[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def title(self, row: int) -> str:
        """Title of a row; empty if the catalogue has none."""
        return str(self._titles[row].as_py())

    def item(self, row: int) -> Item:
        """All fields of one row."""
        raw = self._table.slice(row, 1).to_pylist()[0]
        return Item(
            raw[names.ITEM_ID],
            raw[names.TITLE],
            tuple(raw[names.CATEGORIES]),
            dict(raw[names.ATTRIBUTES]),
            raw[names.POPULARITY],
            raw[names.AVAILABLE],
        )

    @property
    def popularity(self) -> npt.NDArray[np.int64]:
        """(items,) int64, number of interactions in the training data."""
        return _numbers(_column(self._table, names.POPULARITY), np.int64)

    @property
    def unavailable_rows(self) -> npt.NDArray[np.int64]:
        """(n,) int64, ascending: rows of items that must not be recommended."""
        available = _column(self._table, names.AVAILABLE)
        bits = np.frombuffer(available.buffers()[1] or b"", np.uint8)
        flags = np.unpackbits(bits, count=available.offset + len(available), bitorder="little")[available.offset :]
        return np.flatnonzero(flags == 0)

    def rows_by_category(self) -> dict[str, npt.NDArray[np.int64]]:
        """The rows of each category, ascending: (n,) int64."""
        categories = _column(self._table, names.CATEGORIES)
        flat = categories.flatten().dictionary_encode()
        rows = np.repeat(np.arange(len(self), dtype=np.int64), _numbers(categories.value_lengths(), np.int32))
        if len(flat) == 0:
            return {}
        codes = _numbers(flat.indices, np.int32)
        ends = np.cumsum(np.bincount(codes, minlength=len(flat.dictionary)))[:-1]
        groups = np.split(rows[np.argsort(codes, kind="stable")], ends)
        return {name: np.unique(group) for name, group in zip(flat.dictionary.to_pylist(), groups, strict=True)}

    def rows_by_popularity(self) -> npt.NDArray[np.int64]:
        """(items,) int64: all rows, most popular first, equally popular ones in row order."""
        return np.argsort(-self.popularity, kind="stable")

    def attribute_names(self) -> frozenset[str]:
        """Names of the attributes that some item has."""
        attributes = _column(self._table, names.ATTRIBUTES)
        first, last = (attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()) if len(self) else (0, 0)
        return frozenset(pc.unique(attributes.keys.slice(first, last - first)).to_pylist())

    def attribute(self, name: str) -> AttributeColumn | None:
        """One attribute of all items; None if no item has it."""
        attributes = _column(self._table, names.ATTRIBUTES)
        lengths = np.diff(_numbers(attributes.offsets, np.int32))
        rows = np.repeat(np.arange(len(self), dtype=np.int64), lengths)
        first, last = (attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()) if len(self) else (0, 0)
        is_named = pc.equal(attributes.keys.slice(first, last - first), name)
        named = _numbers(is_named.cast(pa.uint8()), np.uint8).astype(np.bool_)
        if not named.any():
            return None
        values = attributes.items.slice(first, last - first).filter(is_named).dictionary_encode()
        codes = np.full(len(self), -1, dtype=np.int32)
        codes[rows[named]] = _numbers(values.indices, np.int32)
        texts = tuple(values.dictionary.to_pylist())
        return AttributeColumn(codes, texts, _parsed_numbers(texts))

    def categories_of(self, rows: npt.NDArray[np.int64]) -> list[list[str]]:
        """Categories of the given rows, (n,) int64."""
        taken: list[list[str]] = _column(self._table, names.CATEGORIES).take(_row_numbers(rows)).to_pylist()
        return taken

    def categories(self) -> Sequence[Sequence[str]]:
        """Categories of every row."""
        return list(_column(self._table, names.CATEGORIES).to_pylist())


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _parsed_numbers(texts: Sequence[str]) -> npt.NDArray[np.float64] | None:
    try:
        numbers = np.array([parsed_number(text) for text in texts])
    except ValueError:
        return None
    return None if np.isnan(numbers).all() else numbers


def write_category_rows(path: Path, rows: Mapping[str, npt.NDArray[np.int64]]) -> None:
    """Writes `ItemTable.rows_by_category` as an uncompressed Arrow file, which readers can map."""
    columns = [pa.array(list(rows), pa.string()), pa.array(list(rows.values()), pa.list_(pa.int64()))]
    table = pa.Table.from_arrays(columns, schema=_CATEGORY_ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _CATEGORY_ROWS) as writer:
        writer.write_table(table)


def read_category_rows(path: Path) -> Mapping[str, npt.NDArray[np.int64]]:
    """Maps a file of category rows into memory. Raises BundleCorrupt if it is unreadable or has other columns."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error
    if not table.schema.equals(_CATEGORY_ROWS):
        raise BundleCorrupt(f"{path.name}: columns {table.schema.names} with their types are not as expected")
    table = table.combine_chunks()
    if table.num_rows == 0:
        return {}
    lists = _column(table, _ROWS)
    rows, ends = _numbers(lists.values, np.int64), _numbers(lists.offsets, np.int32)
    categories = _column(table, names.CATEGORIES).to_pylist()
    return {name: rows[start:end] for name, start, end in zip(categories, ends[:-1], ends[1:], strict=True)}


def _row_numbers(rows: Iterable[int]) -> pa.Array:
    """Rows as an Arrow array. pa.array would import pandas for a numpy array if it is installed: a fifth of a second,
    in the middle of the first request."""
    numbers = np.ascontiguousarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def _texts(texts: Sequence[str]) -> pa.Array:
    """A column of texts. Like the two functions below, it avoids pa.array, for the reason above."""
    encoded = [text.encode() for text in texts]
    buffers = [None, pa.py_buffer(_offsets([len(text) for text in encoded])), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _ends(lengths: Sequence[int]) -> pa.Array:
    """The offsets of lists with these lengths."""
    return pa.Array.from_buffers(pa.int32(), len(lengths) + 1, [None, pa.py_buffer(_offsets(lengths))])


def _flags(flags: Sequence[bool]) -> pa.Array:
    bits = np.packbits(np.array(flags, dtype=np.bool_), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(flags), [None, pa.py_buffer(bits)])


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """0 and the running sums of `lengths`. Raises ValueError if a sum exceeds Arrow's 32-bit offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError("item table: a column has more than 2 GB")
    return offsets.astype(np.int32)


def _numbers(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A numeric column without nulls as an array over its memory, without copying."""
    values = column.buffers()[-1]
    if values is None:
        return np.empty(0, dtype)
    size = np.dtype(dtype).itemsize
    return np.frombuffer(values, dtype, count=len(column), offset=column.offset * size)


def _text_memory(column: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Memory of a text column without nulls: offsets, (texts + 1,) int32, into the bytes of all texts."""
    _, offsets, texts = column.buffers()
    starts = np.zeros(1, dtype=np.int32) if offsets is None else np.frombuffer(offsets, np.int32)
    return starts[column.offset : column.offset + len(column) + 1], memoryview(b"" if texts is None else texts)


def _column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array; an empty array if the table has no chunks."""
    chunks = table.column(name).chunks
    return chunks[0] if chunks else pa.array([], type=SCHEMA.field(name).type)
