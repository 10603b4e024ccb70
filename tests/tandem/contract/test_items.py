"""The item table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tandem.contract.errors import BundleCorrupt
from tandem.contract.items import Item, ItemTable

ITEMS = [
    Item("50", "Star Wars (1977)", ("Action", "Sci-Fi"), {"year": "1977"}, 583),
    Item("é", "", (), {}, 0),
    Item("172", "Empire", ("Action",), {"year": "1980", "lang": "en"}, 367),
]


@pytest.fixture(params=["in memory", "from a file"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> ItemTable:
    made = ItemTable.from_items(ITEMS)
    if request.param == "in memory":
        return made
    made.write(tmp_path / "items.arrow")
    return ItemTable.read(tmp_path / "items.arrow")


def test_rows(table: ItemTable) -> None:
    assert len(table) == 3
    assert [table.item(row) for row in range(3)] == ITEMS
    assert table.item_ids([2, 0]) == ["172", "50"]
    assert (table.title(0), table.title(1)) == ("Star Wars (1977)", "")


def test_columns(table: ItemTable) -> None:
    assert table.popularity.tolist() == [583, 0, 367]
    assert [list(row) for row in table.categories()] == [["Action", "Sci-Fi"], [], ["Action"]]
    rows = {name: rows.tolist() for name, rows in table.rows_by_category().items()}
    assert rows == {"Action": [0, 2], "Sci-Fi": [0]}


def test_empty(tmp_path: Path) -> None:
    ItemTable.from_items([]).write(tmp_path / "items.arrow")
    table = ItemTable.read(tmp_path / "items.arrow")
    assert len(table) == 0
    assert table.rows_by_category() == {}
    assert table.popularity.tolist() == []


def test_other_columns_are_refused() -> None:
    with pytest.raises(BundleCorrupt, match="columns"):
        ItemTable(pa.table({"item_id": ["a"]}))


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"not an Arrow file, but long enough to be one" * 10])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "items.arrow"
    path.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"items\.arrow"):
        ItemTable.read(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.arrow"
    ItemTable.from_items(ITEMS).write(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(BundleCorrupt):
            ItemTable.read(path)


@pytest.mark.parametrize("missing", ["nan", "inf"])
def test_a_missing_number_leaves_an_attribute_numeric(missing: str) -> None:
    prices = ["1.5", missing, "3"]
    column = ItemTable.from_items(
        [Item(str(row), "", (), {"price": price}, 0) for row, price in enumerate(prices)]
    ).attribute("price")
    assert column is not None
    assert column.numbers is not None
    by_value = dict(zip(column.values, column.numbers.tolist(), strict=True))
    assert (by_value["1.5"], by_value["3"]) == (1.5, 3.0)
    assert np.isnan(by_value[missing])
