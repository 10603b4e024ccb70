"""How one file of a bundle is stored: the formats that the table in `bundle_files` is made of."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle_contents import GoldenQueries
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.features import Tensors

Value = TypeVar("Value")
Scalar = TypeVar("Scalar", bound=np.generic)

_GOLDEN_INPUT: Final = "input/"
"""Prefix of the user tower's inputs in the archive of golden queries."""

ITEMS: Final = "items"
DIM: Final = "dim"
BUCKETS: Final = "buckets + 1"
CONTENT_DIM: Final = "content_dim"
_VALID_SIZES: Final[Mapping[str, Callable[[int], bool]]] = {
    BUCKETS: lambda size: (size - 1).bit_count() == 1,
    CONTENT_DIM: lambda size: size > 0,
}
"""Sizes that a dimension may have; any size is valid for the dimensions that are not listed."""


class FileFormat(Protocol[Value]):
    """Writes a value to a file and reads it back."""

    @property
    def title(self) -> str:
        """The format in words, for the reference page."""
        ...

    def write(self, path: Path, value: Value, /) -> object:
        """Writes the file; what it returns means nothing."""
        ...

    def read(self, path: Path, /) -> Value:
        """Reads or maps the file. Raises BundleCorrupt when it is unreadable."""
        ...


@dataclass(frozen=True)
class CustomFormat(Generic[Value]):
    """A format given by its two functions."""

    title: str
    write: Callable[[Path, Value], object]
    read: Callable[[Path], Value]


@dataclass(frozen=True)
class CopiedFile:
    """A file that is copied as it is and opened by its engine; reading it returns its path."""

    title: str

    def write(self, path: Path, value: Path, /) -> None:
        """Copies the file `value`."""
        shutil.copyfile(value, path)

    def read(self, path: Path, /) -> Path:
        """The path itself."""
        return path


@dataclass(frozen=True)
class NpyArray(Generic[Scalar]):
    """One numpy array, mapped into memory when it is read."""

    dtype: type[Scalar]
    shape: tuple[str, ...]
    """Names of the dimensions. A name has one size in the whole bundle."""
    refusal: str
    """What the refusal of another dtype or shape says after the file's name: a format string over dtype, shape and ndim
    of the array, and over the dimensions whose size is known."""

    @property
    def title(self) -> str:
        """For example "(items, dim) float32"."""
        shape = f"({', '.join(self.shape)}{',' if len(self.shape) == 1 else ''})"
        return f"{shape} {np.dtype(self.dtype)}"

    def write(self, path: Path, value: npt.NDArray[Scalar], /) -> None:
        """Writes the array in C order."""
        np.save(path, np.ascontiguousarray(value, dtype=self.dtype))

    def read(self, path: Path, /) -> npt.NDArray[Scalar]:
        """Maps the array into memory; `check` says whether it has the right dtype and shape."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error
        # Still mapped, but not numpy's memmap class, which makes every slice slower.
        return np.asarray(array)

    def check(self, name: str, array: npt.NDArray[Any], sizes: dict[str, int]) -> None:
        """Raises BundleIncompatible when the array of the file `name` has another dtype or shape.

        `sizes` holds the sizes of the dimensions that are known, and gains those that this array is the first to have.
        """
        if (
            array.dtype != self.dtype
            or array.ndim != len(self.shape)
            or any(
                sizes.setdefault(dimension, size) != size or not _is_valid(dimension, size)
                for dimension, size in zip(self.shape, array.shape, strict=True)
            )
        ):
            refusal = self.refusal.format_map({**sizes, "dtype": array.dtype, "shape": array.shape, "ndim": array.ndim})
            raise BundleIncompatible(f"{name} {refusal}")


def _is_valid(dimension: str, size: int) -> bool:
    return dimension not in _VALID_SIZES or _VALID_SIZES[dimension](size)


def write_archive(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes named arrays as one uncompressed archive."""
    np.savez(path, allow_pickle=False, **dict(arrays))


def read_archive(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """Reads what `write_archive` wrote. Raises BundleCorrupt when it is unreadable."""
    try:
        # A compressed entry may unpack to any size.
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]} is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged archives, all with this meaning
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error


def write_golden_queries(path: Path, queries: GoldenQueries) -> None:
    """Writes golden queries as an archive."""
    inputs = {f"{_GOLDEN_INPUT}{name}": array for name, array in queries.inputs.items()}
    write_archive(path, {"expected_rows": queries.expected_rows, **inputs})


def read_golden_queries(path: Path) -> GoldenQueries:
    """Reads what `write_golden_queries` wrote. Raises BundleCorrupt when it is unreadable."""
    arrays = read_archive(path)
    if "expected_rows" not in arrays:
        raise BundleCorrupt(f"{path.name} lacks expected_rows")
    inputs: Tensors = {
        name.removeprefix(_GOLDEN_INPUT): array for name, array in arrays.items() if name.startswith(_GOLDEN_INPUT)
    }
    return GoldenQueries(inputs, arrays["expected_rows"])
