"""Times in every unit become microseconds, and a line with an invalid time is bad."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, table_rows
from tests.trainer.data.plain_table import prepare_table
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare


@pytest.mark.parametrize(
    ("unit", "value", "microseconds"),
    [
        ("seconds", 1_529_193_600, 1_529_193_600_000_000),
        ("seconds", 1_529_193_600.123456, 1_529_193_600_123_456),
        ("milliseconds", 1_588_615_855_070, 1_588_615_855_070_000),
        ("microseconds", 1_588_615_855_070_001, 1_588_615_855_070_001),
        ("iso", "2024-01-02", 1_704_153_600_000_000),
        ("iso", "2024-01-02T00:00:00.000001+01:00", 1_704_150_000_000_001),
        ("seconds", 1_588_615_855_070, None),
        ("seconds", -1, None),
        ("iso", "soon", None),
    ],
)
def test_timestamp_units(write, tmp_path: Path, unit: str, value: object, microseconds: int | None):
    quoted = f'"{value}"' if isinstance(value, str) else value
    write(
        "rows.jsonl", f'{{"u": 1, "i": 2, "t": {quoted}}}\n{{"u": 1, "i": 3, "t": {"0" if unit != "iso" else quoted}}}'
    )
    config = load_data_config(
        str(
            write(
                "data.toml",
                'name = "t"\nformat = "table"\nmax_bad_share = 0.5\n[interactions]\npath = "rows.jsonl"\nuser = "u"\n'
                f'item = "i"\ntimestamp = "t"\ntimestamp_unit = "{unit}"\n',
            )
        ),
        {},
    )
    if microseconds is None:
        if unit == "iso":
            with pytest.raises(DataError, match="unparsable_timestamp"):
                prepare(config, tmp_path / "cache")
        else:
            assert prepare(config, tmp_path / "cache").report.file("interactions").dropped == {
                "unparsable_timestamp": 1
            }
        return
    rows = {row["item_id"]: row for row in table_rows(prepare(config, tmp_path / "cache"), "interactions")}
    assert rows["2"]["timestamp"] == microseconds
    assert rows["2"]["rating"] is None


NOON = 1_572_609_600_000_000  # 2019-11-01T12:00:00Z


def times_of(tmp_path: Path, name: str, unit: str = "") -> list[object]:
    keys = f'path = "{name}"\ntimestamp = "t"\n' + (f'timestamp_unit = "{unit}"\n' if unit else "")
    rows = table_rows(prepare_table(tmp_path, keys), "interactions")
    return [row["timestamp"] for row in sorted(rows, key=lambda row: str(row["item_id"]))]


def test_forms_of_iso_8601(write, tmp_path: Path):
    expected = {
        "2019-11-01": NOON - 43_200_000_000,
        "20191101": NOON - 43_200_000_000,
        "2019-11-01Z": NOON - 43_200_000_000,
        "2019-11-01T12": NOON,
        "2019-11-01T12Z": NOON,
        "2019-11-01 12+01": NOON - 3_600_000_000,
        "2019-11-01T12:00": NOON,
        "2019-11-01t12:00:00z": NOON,
        "20191101T120000Z": NOON,
        "20191101T1200": NOON,
        "20191101120000": NOON,
        "2019-11-01 12:00:00 UTC": NOON,
        "2019-11-01T12:00:00+0100": NOON - 3_600_000_000,
        "2019-11-01T12:00:00+01": NOON - 3_600_000_000,
        "2019-11-01T12:00:00-05:30": NOON + 19_800_000_000,
        "2019-11-01T12:00:00.1": NOON + 100_000,
        "2019-11-01T12:00:00.123456789Z": NOON + 123_456,
        "2019-11-01T12:00:00.1234567891Z": NOON + 123_456,
        "20191101T120000,5Z": NOON + 500_000,
        "2019-11-01T24:00:00": NOON + 43_200_000_000,
        "2019-11-01 12:00:00 +0100": NOON - 3_600_000_000,
        "2019-11-01T12:00:00\N{MINUS SIGN}05:30": NOON + 19_800_000_000,
        "2019-11-01T12:00:00.5+01:00[Europe/Berlin]": NOON - 3_600_000_000 + 500_000,
        "2019-W44-5": NOON - 43_200_000_000,
        "2019W445T12Z": NOON,
        "2019-W44-5T12:00+01": NOON - 3_600_000_000,
        "2019-W44": NOON - 43_200_000_000 - 4 * 86_400_000_000,
        "2020-W53-7": NOON + (429 * 24 - 12) * 3_600_000_000,  # 2021-01-03
        "2021-W53-1": None,
        "2019-W00-1": None,
        "2019-W44-8": None,
        "2019-305": NOON - 43_200_000_000,
        "2019-305T12:00:00Z": NOON,
        "2020-366": NOON + (426 * 24 - 12) * 3_600_000_000,  # 2020-12-31
        "2019-366": None,
        "2019-000": None,
        "2016-12-31T23:59:60Z": 1_483_228_800_000_000,
        "2017-01-01 00:59:60.25+01:00": 1_483_228_800_250_000,
        "20161231T235960Z": 1_483_228_800_000_000,
        "2016-12-31T23:58:60Z": None,
        "epoch": None,
        "infinity": None,
        "2019-13-01": None,
        "01.11.2019": None,
        "2019": None,
    }
    lines = [f'u;{number:03};"{text}"' for number, text in enumerate(expected)]
    write("r.csv", "u;i;t\n" + "\n".join(lines) + "\n")
    for unit in ("iso", "auto"):
        keys = f'path = "r.csv"\ndelimiter = ";"\ntimestamp = "t"\ntimestamp_unit = "{unit}"\n'
        rows = {row["item_id"]: row["timestamp"] for row in table_rows(prepare_table(tmp_path, keys), "interactions")}
        found = {text: rows.get(f"{number:03}") for number, text in enumerate(expected)}
        year_as_number = {"2019": 2_019_000_000} if unit == "auto" else {}
        assert found == {**expected, **year_as_number}


def test_the_unit_is_found_by_the_size_of_the_number(write, tmp_path: Path):
    seconds = NOON // 1_000_000
    numbers = [seconds, f"{seconds}.5", seconds * 1_000 + 7, NOON + 7, NOON * 1_000 + 7_999, "2019-11-01T12:00:00Z"]
    write("r.csv", "u,i,t\n" + "".join(f"u,{number},{value}\n" for number, value in enumerate(numbers)))
    assert times_of(tmp_path, "r.csv", "auto") == [NOON, NOON + 500_000, NOON + 7_000, NOON + 7, NOON + 7, NOON]


def test_nanoseconds_are_exact(write, tmp_path: Path):
    write("r.csv", f"u,i,t\nu,0,{NOON * 1_000 + 1_001}\nu,1,{NOON * 1_000 + 999}\n")
    assert times_of(tmp_path, "r.csv", "nanoseconds") == [NOON + 1, NOON]


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.timestamp("us"),
        pa.timestamp("ns"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("us", "Asia/Tokyo"),
        pa.timestamp("ns", "UTC"),
    ],
    ids=str,
)
def test_a_parquet_column_of_times_needs_no_unit(tmp_path: Path, kind: pa.DataType):
    times = (
        pa.array([NOON // 1_000_000, NOON // 1_000_000 + 1], pa.int64())
        .cast(pa.timestamp("s"))
        .cast(pa.timestamp(kind.unit))
    )
    if kind.tz:
        times = pa.array(times.cast(pa.int64()), kind)
    pq.write_table(pa.table({"u": ["u", "u"], "i": ["0", "1"], "t": times}), tmp_path / "r.parquet")
    assert times_of(tmp_path, "r.parquet") == [NOON, NOON + 1_000_000]


def test_dates_of_parquet(tmp_path: Path):
    days = pa.array([18_201], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"u": ["u"], "i": ["0"], "t": days}), tmp_path / "r.parquet")
    assert times_of(tmp_path, "r.parquet") == [NOON - 43_200_000_000]


def test_the_order_of_the_file_is_the_order_of_interactions(write, tmp_path: Path):
    write("r.csv", "u,i\nb,x\na,z\nb,a\na,y\na,z\n")
    rows = table_rows(prepare_table(tmp_path, 'path = "r.csv"\nfile_order = true\n'), "interactions")
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("a", "z"), ("a", "y"), ("b", "x"), ("b", "a")]
    assert {row["timestamp"] for row in rows} == {0}


def test_play_counts_are_weights(write, tmp_path: Path):
    write("r.csv", "u;i;t;plays;r\na;1;1;13,5;4,5\na;1;2;99;4\na;2;3;0;4\na;3;4;;4\na;4;5;inf;4\na;5;6;2;3,5\n")
    keys = 'path = "r.csv"\ndelimiter = ";"\ntimestamp = "t"\nweight = "plays"\nrating = "r"\ndecimal = ","\n'
    prepared = prepare_table(tmp_path, keys, head="event_weights = { rating = 2 }")
    rows = {row["item_id"]: (row["weight"], row["rating"]) for row in table_rows(prepared, "interactions")}
    assert rows == {"1": (27.0, 4.5), "5": (4.0, 3.5)}
    dropped = prepared.report.file("interactions").dropped
    assert dropped == {"duplicate": 1, "unparsable_weight": 2, "missing_weight": 1}


@pytest.mark.parametrize("plays", ["1.234", "1.234,5", "-1.234.567"])
def test_points_between_thousands_are_no_decimal_points(write, tmp_path: Path, plays: str):
    write("r.csv", f"u;i;t;plays\na;1;1;{plays}\na;2;2;4.5\na;3;3;1234\n")
    keys = 'path = "r.csv"\ndelimiter = ";"\ntimestamp = "t"\nweight = "plays"\ndecimal = ","\n'
    prepared = prepare_table(tmp_path, keys)
    assert [row["weight"] for row in table_rows(prepared, "interactions")] == [4.5, 1234.0]
    assert prepared.report.file("interactions").dropped == {"unparsable_weight": 1}


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_times_that_excel_has_shortened_are_bad(write, tmp_path: Path, name: str):
    rows = [{"u": "a", "i": f"i{number}", "t": time} for number, time in enumerate(["1.70001E+12", "1.7e+12", "17e11"])]
    write(name, {"r.csv": csv_text, "r.jsonl": jsonl_text}[name](rows))
    prepared = prepare_table(tmp_path, f'path = "{name}"\ntimestamp = "t"\ntimestamp_unit = "milliseconds"\n')
    assert [row["item_id"] for row in table_rows(prepared, "interactions")] == ["i1", "i2"]
    assert prepared.report.file("interactions").dropped == {"time_imprecise": 1}


def test_times_in_short_floats_have_lost_their_seconds(tmp_path: Path):
    table = pa.table({"u": ["a", "a"], "i": ["1", "2"], "t": pa.array([1_700_003_600.0, 5.0], pa.float32())})
    pq.write_table(table, tmp_path / "r.parquet")
    prepared = prepare_table(tmp_path, 'path = "r.parquet"\ntimestamp = "t"\n')
    assert [row["timestamp"] for row in table_rows(prepared, "interactions")] == [5_000_000]
    assert prepared.report.file("interactions").dropped == {"time_imprecise": 1}


def test_ignored_event_types_are_not_bad(write, tmp_path: Path):
    write("r.csv", "u,i,t,e\n,1,1,remove\na,1,2,view\na,2,3, remove\na,3,4,other\n")
    keys = 'path = "r.csv"\ntimestamp = "t"\nevent_type = "e"\nevent_types = { view = "click" }\n'
    report = prepare_table(tmp_path, keys + 'ignored_event_types = ["remove"]\n').report.file("interactions")
    assert report.dropped == {"ignored_event_type": 2, "unknown_event_type": 1}
    assert report.rows_bad == 1
    assert [(line.line, line.kind) for line in report.bad_lines] == [(5, "unknown_event_type")]
    with pytest.raises(ConfigError, match="'view' is in event_types and in ignored_event_types"):
        prepare_table(tmp_path, keys + 'ignored_event_types = ["view"]\n')


def test_seven_digits_are_an_ordinal_date_only_in_iso(write, tmp_path: Path):
    write("r.csv", "u,i,t\nu,a,2019305\n")
    keys = ('path = "r.csv"', 'timestamp = "t"')
    for unit, expected in (("iso", NOON - 43_200_000_000), ("auto", 2_019_305_000_000)):
        prepared = prepare_table(tmp_path, "\n".join((*keys, f'timestamp_unit = "{unit}"')))
        assert [row["timestamp"] for row in table_rows(prepared, "interactions")] == [expected]
