"""The content of a file alone counts: not the names of its folders, and no pattern in its own name."""

from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, parquet_bytes, table_rows
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare

ROWS = [{"u": f"u{n % 5}", "i": f"i{n // 5}", "r": n % 4 + 1, "t": 1_500_000_000 + n} for n in range(30)]
CONFIG = """
name = "small"
format = "table"
[interactions]
path = "{name}"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
"""
CONTENTS = {"csv": csv_text(ROWS).encode(), "jsonl": jsonl_text(ROWS).encode(), "parquet": parquet_bytes(ROWS)}


def prepared_below(folder: Path, name: str, cache: Path) -> PreparedData:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(CONTENTS[name.rsplit(".", 1)[1]])
    (folder / "data.toml").write_text(CONFIG.format(name=name))
    return prepare(load_data_config(str(folder / "data.toml"), {}), cache)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("plain")
    return prepared_below(folder, "rows.csv", folder / "cache")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", ["u=zzz/r=3", "item_id=zzz/user_id=1", "it's [a-z]*/wh{a,b}t?/**"])
def test_folders_of_the_source_and_of_the_data_do_not_change_the_data(
    tmp_path: Path, plain: PreparedData, folder: str, kind: str
):
    prepared = prepared_below(tmp_path / folder, f"rows.{kind}", tmp_path / folder / "cache")
    assert prepared.fingerprint == plain.fingerprint
    assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (5, 6, 30)
    assert {row["rating"] for row in table_rows(prepared, "interactions")} == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["rows*.csv", "rows?.csv", "rows[1].csv", "rows{1,2}.parquet", "**.jsonl", "~.csv"])
def test_a_file_whose_name_reads_as_a_pattern_is_read_alone(tmp_path: Path, plain: PreparedData, name: str):
    for other in ("rows1", "rows2", "rowsx"):
        (tmp_path / f"{other}{Path(name).suffix}").write_bytes(b"not,read\n")
    assert prepared_below(tmp_path, name, tmp_path / "cache").fingerprint == plain.fingerprint


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_whose_names_differ_in_case_are_told_apart(write, tmp_path: Path, kind: str):
    rows = [{"U": "x", "I": f"i{n}", "u": "y", "i": "j", "R": 5, "t": 1_500_000_000} for n in range(3)]
    write(f"rows.{kind}", csv_text(rows) if kind == "csv" else parquet_bytes(rows))
    config = CONFIG.format(name=f"rows.{kind}").replace('rating = "r"', 'rating = "R"')
    lower = prepare(load_data_config(str(write("data.toml", config)), {}), tmp_path / "cache")
    assert [(row["user_id"], row["item_id"]) for row in table_rows(lower, "interactions")] == [("y", "j")]
    upper_keys = {"interactions.user": "U", "interactions.item": "I"}
    upper = prepare(load_data_config(str(write("data.toml", config)), upper_keys), tmp_path / "cache")
    ids = [(row["user_id"], row["item_id"]) for row in table_rows(upper, "interactions")]
    assert ids == [("x", "i0"), ("x", "i1"), ("x", "i2")]


def test_a_repeated_column_name_is_an_error_only_if_it_is_used(write, tmp_path: Path):
    write("rows.csv", "u,i,r,t,x,x\na,b,5,1500000000,1,2\n")
    path = str(write("data.toml", CONFIG.format(name="rows.csv")))
    assert prepare(load_data_config(path, {}), tmp_path / "cache").num_interactions == 1
    with pytest.raises(ConfigError, match=r"interactions: rows\.csv has 2 columns 'x'"):
        prepare(load_data_config(path, {"interactions.user": "x"}), tmp_path / "cache")


def test_blanks_around_a_column_name_do_not_count(write, tmp_path: Path):
    write("rows.csv", '\ufeff"u" , i,  r ,t\na,b,5,1500000000\n')
    path = str(write("data.toml", CONFIG.format(name="rows.csv")))
    prepared = prepare(load_data_config(path, {}), tmp_path / "cache")
    assert [row["rating"] for row in table_rows(prepared, "interactions")] == [5]


def test_paths_of_several_lines_are_refused_on_one_line(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a\nb.csv").write_bytes(CONTENTS["csv"])
    (tmp_path / "data.toml").write_text(CONFIG.format(name="in"))
    with pytest.raises(DataError, match=r"^'.*/a\\nb\.csv': a file whose name has several lines; rename it$"):
        prepare(load_data_config(str(tmp_path / "data.toml"), {}), tmp_path / "cache")
    (tmp_path / "data.toml").write_text(CONFIG.format(name="in/a\\nb.csv"))
    with pytest.raises(ConfigError, match=r"interactions\.path.*: must be one line, not 'in/a\\nb\.csv'") as raised:
        load_data_config(str(tmp_path / "data.toml"), {})
    assert "\n" not in str(raised.value)
