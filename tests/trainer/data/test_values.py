"""A value means the same in every format: what is missing, which text is an id, where a key leads."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, parquet_bytes, table_rows
from tests.trainer.data.plain_table import prepare_table
from trainer.core.errors import ConfigError, DataError

BY_TIME = 'timestamp = "t"\n'


def ids_of(prepared, column: str = "user_id") -> list[object]:
    return sorted({row[column] for row in table_rows(prepared, "interactions")}, key=str)


def write_parquet(path: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path)


def test_nan_in_a_floating_id_column_is_missing(tmp_path: Path):
    nan = float("nan")
    write_parquet(
        tmp_path / "r.parquet",
        u=pa.array([1.0, nan, 2.0, None, 2.0], from_pandas=False),
        i=pa.array([1.0, 1.0, nan, 3.0, 4.0], from_pandas=False),
        t=pa.array([1, 2, 3, 4, 5]),
    )
    prepared = prepare_table(tmp_path, f'path = "r.parquet"\n{BY_TIME}')
    assert prepared.report.file("interactions").dropped == {"missing_user": 2, "missing_item": 1}
    assert (ids_of(prepared), ids_of(prepared, "item_id")) == (["1", "2"], ["1", "4"])


@pytest.mark.parametrize(("kind", "largest"), [(pa.float64(), 1 << 53), (pa.float32(), 1 << 24)])
def test_a_floating_id_that_has_lost_digits_is_bad(tmp_path: Path, kind: pa.DataType, largest: int):
    ids = pa.array([float(largest), float(largest) * 2, float("inf"), 5.5, 1.0], kind)
    write_parquet(tmp_path / "r.parquet", u=ids, i=pa.array(["a"] * 5), t=pa.array(range(5)))
    prepared = prepare_table(tmp_path, f'path = "r.parquet"\n{BY_TIME}')
    assert prepared.report.file("interactions").dropped == {"id_imprecise": 2}
    assert ids_of(prepared) == sorted(["1", "5.5", str(largest)])


def test_a_large_number_in_json_is_an_id_unless_it_has_a_fraction(write, tmp_path: Path):
    write("r.jsonl", '{"u": 12345678901234567890123, "i": 1, "t": 1}\n{"u": 1.2345678901234567e18, "i": 1, "t": 1}\n')
    prepared = prepare_table(tmp_path, f'path = "r.jsonl"\n{BY_TIME}')
    assert ids_of(prepared) == ["12345678901234567890123"]
    assert prepared.report.file("interactions").dropped == {"id_imprecise": 1}


def test_bytes_are_text_and_other_bytes_are_no_id(tmp_path: Path):
    users = pa.array(["é".encode(), b"\xff\x00"], pa.binary())
    write_parquet(tmp_path / "r.parquet", u=users, i=pa.array([True, False]), t=pa.array([1, 2]))
    prepared = prepare_table(tmp_path, f'path = "r.parquet"\n{BY_TIME}')
    assert (ids_of(prepared), ids_of(prepared, "item_id")) == (["é"], ["true"])
    assert prepared.report.file("interactions").dropped == {"bad_id": 1}


BLANK_IDS = [
    {"u": " a", "i": "x", "t": " 1 "},
    {"u": "a\t", "i": "y\u00a0", "t": "2"},
    {"u": "\ufeffa\u200b", "i": " \u3000z", "t": "3"},
    {"u": "\u00a0", "i": "x", "t": "4"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", lambda: csv_text([{}, *BLANK_IDS][1:])),
        ("r.jsonl", lambda: jsonl_text(BLANK_IDS)),
        ("r.parquet", lambda: parquet_bytes(BLANK_IDS)),
    ],
)
def test_blanks_of_all_kinds_around_ids_do_not_count(write, tmp_path: Path, name: str, content):
    write(name, content())
    prepared = prepare_table(tmp_path, f'path = "{name}"\n{BY_TIME}')
    assert (ids_of(prepared), ids_of(prepared, "item_id")) == (["a"], ["x", "y", "z"])
    assert prepared.report.file("interactions").dropped == {"missing_user": 1}


def test_a_blank_after_the_delimiter_is_no_part_of_an_id(write, tmp_path: Path):
    write("r.csv", 'u,i,t\nu0, i0, 1\n"u0", "i1", 2\nu0 u, i0,3\n')
    prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}')
    assert (ids_of(prepared), ids_of(prepared, "item_id")) == (["u0", "u0 u"], ["i0", "i1"])


class TestWholeNumbers:
    ITEMS = '[items]\npath = "it.csv"\nid = "id"\ntitle = "title"\n'

    @pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet"])
    def test_ids_that_pandas_wrote_as_floats_join(self, write, tmp_path: Path, name: str):
        rows = [{"u": 1, "i": 10.0, "t": 1}, {"u": 2, "i": 20.0, "t": 2}, {"u": 2, "i": None, "t": 2}]
        write(name, {"r.csv": csv_text, "r.jsonl": jsonl_text, "r.parquet": parquet_bytes}[name](rows))
        write("it.csv", "id,title\n10,A\n20,B\n")
        prepared = prepare_table(tmp_path, f'path = "{name}"\n{BY_TIME}', sections=self.ITEMS)
        titles = {row["item_id"]: row["title"] for row in table_rows(prepared, "items")}
        assert titles == {"10": "A", "20": "B"}
        noted = prepared.report.file("interactions").noted
        assert noted == ({} if name == "r.parquet" else {"whole_number_id": 2})

    def test_the_items_file_has_the_floats(self, write, tmp_path: Path):
        write("r.csv", "u,i,t\n1,10,1\n2,100000,2\n")
        write("it.csv", "id,title\n10.0,A\n1e+05,B\n")
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=self.ITEMS)
        assert {row["item_id"]: row["title"] for row in table_rows(prepared, "items")} == {"10": "A", "100000": "B"}
        assert prepared.report.file("items").noted == {"whole_number_id": 2}

    @pytest.mark.parametrize(
        ("interactions", "items", "expected"),
        [
            (["1.0", "2.0"], ["1.0", "1.1", "2.0"], ["1.0", "2.0"]),  # versions: not every id is whole
            (["1.0", "2.0"], ["1.0", "2.0", "beta"], ["1.0", "2.0"]),
            (["1.0", "2.0", "nightly"], ["1.0", "2.0"], ["1.0", "2.0", "nightly"]),
            (["1.0", "1.5"], ["1.0", "2"], ["1.0", "1.5"]),
            (["12e45", "1e5"], ["12e45"], ["12e45", "1e5"]),  # hexadecimal
            (["007", "8.0"], ["007"], ["007", "8"]),  # leading zeros are digits like others
            (["10.0", "20.0"], ["10", "abc"], ["10", "20"]),
            (["12345678901234567890.0"], ["12345678901234567890"], ["12345678901234567890"]),
        ],
    )
    def test_a_column_changes_only_if_every_id_is_a_whole_number(
        self, write, tmp_path: Path, interactions: list[str], items: list[str], expected: list[str]
    ):
        write("r.csv", csv_text([{"u": "a", "i": item, "t": 1} for item in interactions]))
        write("it.csv", csv_text([{"id": item, "title": "T"} for item in items]))
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=self.ITEMS)
        assert ids_of(prepared, "item_id") == sorted(expected)


class TestShortenedByExcel:
    @pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
    def test_a_large_number_without_its_last_digits_is_bad(self, write, tmp_path: Path, name: str):
        rows: list[dict[str, object]] = [
            {"u": user, "i": "a", "t": 1} for user in ("1.23457E+11", "1.5E+11", "1.23457e+11", "7")
        ]
        write(name, {"r.csv": csv_text, "r.jsonl": jsonl_text}[name](rows))
        prepared = prepare_table(tmp_path, f'path = "{name}"\n{BY_TIME}')
        assert ids_of(prepared) == ["123457000000", "150000000000", "7"]
        assert prepared.report.file("interactions").dropped == {"id_imprecise": 1}


class TestNulls:
    ROWS = "u,i,t\n\\N,i0,1\nNULL,i1,2\nnan,i2,3\nu1,i3,4\n"

    def test_by_default_the_null_of_databases_is_missing_and_an_artist_called_nan_is_not(self, write, tmp_path: Path):
        write("r.csv", self.ROWS)
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}')
        assert ids_of(prepared) == ["NULL", "nan", "u1"]
        assert prepared.report.file("interactions").dropped == {"missing_user": 1}

    def test_the_key_replaces_the_default(self, write, tmp_path: Path):
        write("r.csv", self.ROWS)
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}nulls = ["NULL", "nan"]')
        assert ids_of(prepared) == ["\\N", "u1"]
        write(
            "r.jsonl", '{"u": "NULL", "i": 1, "t": 1}\n{"u": "u1", "i": 1, "t": "\\\\N"}\n{"u": "u2", "i": 1, "t": 1}'
        )
        prepared = prepare_table(tmp_path, f'path = "r.jsonl"\n{BY_TIME}nulls = ["NULL", "\\\\N"]')
        assert prepared.report.file("interactions").dropped == {"missing_user": 1, "missing_timestamp": 1}

    def test_a_title_and_a_feature_of_the_null_word_are_missing(self, write, tmp_path: Path):
        write("r.csv", "u,i,t\na,x,1\n")
        write("it.csv", "id,title,c\nx,\\N,\\N\n")
        write("us.csv", "id,age\na,\\N\n")
        sections = '[items]\npath = "it.csv"\nid = "id"\ntitle = "title"\ncategories = "c"\n'
        sections += '[users]\npath = "us.csv"\nid = "id"\nfeatures = { age = "age" }\n'
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=sections)
        (item,) = table_rows(prepared, "items")
        assert (item["title"], item["categories"]) == ("", [])
        assert table_rows(prepared, "users") == [{"user_id": "a", "age": None}]


class TestKeysInsideObjects:
    NESTED = 'path = "r.jsonl"\nuser = "user.id"\nitem = "item._id.$oid"\ntimestamp = "at"\n'

    def prepare(self, tmp_path: Path, rows: list[object]):
        (tmp_path / "r.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        config = tmp_path / "data.toml"
        config.write_text(f'name = "n"\nformat = "table"\nmax_bad_share = 0.9\n[interactions]\n{self.NESTED}')
        from trainer.data.config import load_data_config
        from trainer.data.prepare import prepare

        return prepare(load_data_config(str(config), {}), tmp_path / "cache")

    def test_dots_lead_into_objects(self, tmp_path: Path):
        prepared = self.prepare(tmp_path, [{"user": {"id": 7}, "item": {"_id": {"$oid": "5f"}}, "at": 1}])
        assert (ids_of(prepared), ids_of(prepared, "item_id")) == (["7"], ["5f"])

    def test_a_key_of_that_very_name_comes_first(self, tmp_path: Path):
        row = {"user": {"id": 7}, "user.id": 8, "item": {"_id": {"$oid": "5f"}}, "at": 1}
        assert ids_of(self.prepare(tmp_path, [row])) == ["8"]

    def test_an_object_or_a_list_is_no_id(self, tmp_path: Path):
        good = {"user": {"id": 7}, "item": {"_id": {"$oid": "5f"}}, "at": 1}
        rows = [good, {**good, "user": {"id": {"a": 1}}}, {**good, "item": {"_id": {"$oid": ["a", "b"]}}}]
        prepared = self.prepare(tmp_path, rows)
        assert prepared.report.file("interactions").dropped == {"bad_id": 2}

    def test_a_value_in_the_entries_of_a_list_is_named(self, tmp_path: Path):
        good = {"user": {"id": 7}, "item": {"_id": {"$oid": "5f"}}, "at": 1}
        prepared = self.prepare(tmp_path, [good, {**good, "item": [{"_id": {"$oid": "a"}}, {"_id": {"$oid": "b"}}]}])
        assert prepared.report.file("interactions").dropped == {"bad_id": 1}
        write_parquet(tmp_path / "r.parquet", u=pa.array(["a"]), i=pa.array([[{"id": "b"}]]), t=pa.array([1]))
        with pytest.raises(ConfigError, match=r"r\.parquet: 'i\.id' is inside of a list, and a row has one value"):
            prepare_table(tmp_path, f'path = "r.parquet"\n{BY_TIME}', item="i.id")

    def test_a_repeated_key_is_named(self, tmp_path: Path):
        good = '{"user": {"id": 7}, "item": {"_id": {"$oid": "5f"}}, "at": 1, "other": 1, "other": 2}'
        prepared = self.prepare(tmp_path, [good, good.replace('"at": 1', '"at": 1, "at": 2')])
        (bad,) = prepared.report.file("interactions").bad_lines
        assert (bad.line, bad.kind) == (2, "repeated_key")

    def test_structs_of_parquet(self, tmp_path: Path):
        users = pa.array([{"id": 7, "name": "x"}])
        write_parquet(tmp_path / "r.parquet", u=users, i=pa.array([["a", "b"]]), t=pa.array([1]))
        with pytest.raises(ConfigError, match=r"r\.parquet: column 'u' is a struct, and an id .*\"u\.id\""):
            prepare_table(tmp_path, f'path = "r.parquet"\n{BY_TIME}')
        write_parquet(tmp_path / "r.parquet", **{"u": pa.array(["a"]), "i": pa.array(["b"]), "t": pa.array([{"n": 5}])})
        prepared = prepare_table(tmp_path, 'path = "r.parquet"\ntimestamp = "t.n"\n')
        assert [row["timestamp"] for row in table_rows(prepared, "interactions")] == [5_000_000]
        with pytest.raises(
            ConfigError, match=r"interactions: r\.parquet has no column 't\.x'; its columns are u, i, t"
        ):
            prepare_table(tmp_path, 'path = "r.parquet"\ntimestamp = "t.x"\n')


class TestNamesOfFeatures:
    def prepare(self, write, tmp_path: Path, features: str):
        write("r.csv", "u,i,t\na,x,1\nb,x,2\n")
        write("us.csv", "id,age,town\na,30,Ulm\nb,40,Bonn\n")
        sections = f'[users]\npath = "us.csv"\nid = "id"\nfeatures = {features}\n'
        return prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=sections)

    @pytest.mark.parametrize("name", ["defect", "excerpt", "source_row", "position", "item_id", "feature_0", "Größe"])
    def test_a_feature_may_have_the_name_of_a_column(self, write, tmp_path: Path, name: str):
        prepared = self.prepare(write, tmp_path, f'{{ "{name}" = "age", town = "town" }}')
        assert prepared.feature_names == (name, "town")
        assert table_rows(prepared, "users") == [
            {"user_id": "a", name: "30", "town": "Ulm"},
            {"user_id": "b", name: "40", "town": "Bonn"},
        ]

    @pytest.mark.parametrize("name", ["user_id", "USER_ID", "history.num_events"])
    def test_a_reserved_name_is_refused(self, write, tmp_path: Path, name: str):
        with pytest.raises(ConfigError, match=rf"users\.features: the feature name '{name}' is reserved"):
            self.prepare(write, tmp_path, f'{{ "{name}" = "age" }}')

    def test_names_that_differ_in_case_alone_are_refused(self, write, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"users\.features: two feature names differ only in .* case: age, Age"):
            self.prepare(write, tmp_path, '{ age = "age", Age = "town" }')

    @pytest.mark.parametrize("name", ["", " ", "x" * 257])
    def test_an_attribute_that_the_server_would_refuse_is_refused(self, write, tmp_path: Path, name: str):
        write("it.csv", "id\nx\n")
        sections = f'[items]\npath = "it.csv"\nid = "id"\nattributes = {{ "{name}" = "id" }}\n'
        with pytest.raises(ConfigError, match=r"items\.attributes: the name '.*' must have"):
            prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=sections)

    @pytest.mark.parametrize("name", ["item_id", "title", "defect", "attribute_0"])
    def test_an_attribute_may_have_the_name_of_a_column(self, write, tmp_path: Path, name: str):
        write("r.csv", "u,i,t\na,x,1\n")
        write("it.csv", "id,p\nx,5\n")
        sections = f'[items]\npath = "it.csv"\nid = "id"\nattributes = {{ {name} = "p" }}\n'
        prepared = prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}', sections=sections)
        assert [row["attributes"] for row in table_rows(prepared, "items")] == [[(name, "5")]]


@pytest.mark.parametrize("key", ["min_rating", "rating_scale_max", "max_bad_share", "event_weights.click"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_of_the_configuration_is_finite(tmp_path: Path, key: str, value: str):
    from trainer.data.config import load_data_config

    with pytest.raises(ConfigError, match=rf"override {key}"):
        load_data_config("ml-100k", {key: value})


def test_ratings_and_positions_that_are_no_finite_numbers(write, tmp_path: Path):
    write("r.csv", "u,i,r,p\na,1,nan,1\na,2,inf,2\na,3,5,inf\na,4,5,nan\na,5,5,5\n")
    prepared = prepare_table(tmp_path, 'path = "r.csv"\nrating = "r"\nposition = "p"\n')
    assert prepared.report.file("interactions").dropped == {
        "missing_rating": 1,
        "unparsable_rating": 1,
        "missing_position": 1,
        "unparsable_position": 1,
    }


def test_every_id_missing_is_an_error_that_names_the_kind(write, tmp_path: Path):
    write("r.csv", "u,i,t\n\\N,x,1\n")
    with pytest.raises(DataError, match="missing_user"):
        prepare_table(tmp_path, f'path = "r.csv"\n{BY_TIME}')
