"""Every kind of defect, at a known line."""

from pathlib import Path

import pytest

from tests.trainer.data.conftest import table_rows
from trainer.core.errors import DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

GOOD = '{"u": "u1", "i": "i%d", "r": 5, "t": "2024-01-02T03:04:05Z", "e": "view"}'
CONFIG = """
name = "planted"
format = "table"
max_bad_share = %s
[interactions]
path = "%s"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
timestamp_unit = "iso"
event_type = "e"
event_types = { view = "click", order = "purchase" }
"""
BAD_JSON_LINES = {
    2: ('{"u": "u1", "i": ', "bad_json"),
    5: ("[1, 2]", "bad_json"),
    6: ('{"i": "i1", "r": 5, "t": "2024-01-02", "e": "view"}', "missing_user"),
    7: ('{"u": "u1", "i": null, "r": 5, "t": "2024-01-02", "e": "view"}', "missing_item"),
    8: ('{"u": "u1", "i": "  ", "r": 5, "t": "2024-01-02", "e": "view"}', "missing_item"),
    9: ('{"u": "u1", "i": "x", "t": "2024-01-02", "e": "view"}', "missing_rating"),
    10: ('{"u": "u1", "i": "x", "r": "good", "t": "2024-01-02", "e": "view"}', "unparsable_rating"),
    11: ('{"u": "u1", "i": "x", "r": 0, "t": "2024-01-02", "e": "view"}', "rating_out_of_range"),
    12: ('{"u": "u1", "i": "x", "r": "nan", "t": "2024-01-02", "e": "view"}', "missing_rating"),
    13: ('{"u": "u1", "i": "x", "r": 1, "e": "view"}', "missing_timestamp"),
    14: ('{"u": "u1", "i": "x", "r": 1, "t": "2024-13-02", "e": "view"}', "unparsable_timestamp"),
    15: ('{"u": "u1", "i": "x", "r": 1, "t": "2024-01-02", "e": "stare"}', "unknown_event_type"),
    16: ('{"u": "%s", "i": "x", "r": 1, "t": "2024-01-02", "e": "view"}' % ("é" * 129), "id_too_long"),
    17: (b'{"u": "\xff", "i": "x", "r": 1, "t": "2024-01-02", "e": "view"}', "bad_json"),
    18: ('{"u": "u1"}\x01\x02\x1e\x1f', "missing_item"),
    22: ("{" + "x" * 3_000_000, "bad_json"),
}
BLANK_LINES = {3: "", 4: "   "}


def planted_lines() -> list[bytes]:
    lines = []
    for number in range(1, 25):
        text = BAD_JSON_LINES[number][0] if number in BAD_JSON_LINES else BLANK_LINES.get(number, GOOD % number)
        lines.append(text if isinstance(text, bytes) else text.encode())
    lines[20] = (
        (GOOD % 20).replace('"e"', '"pad": "%s", "e"' % ("y" * 3_000_000)).encode()
    )  # line 21: long and good, but a duplicate
    lines[22] = (GOOD % 23).replace("view", "order").replace("Z", "+02:00").encode()  # line 23
    return lines


class TestJsonLines:
    @pytest.fixture(params=["\n", "\r\n", "mixed"], ids=["lf", "crlf", "mixed"])
    def line_end(self, request) -> bytes:
        return request.param.encode()

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
    @pytest.mark.parametrize("ends_with_newline", [True, False])
    def test_counts_and_line_numbers(self, write, tmp_path: Path, line_end: bytes, name: str, ends_with_newline: bool):
        ends = [b"\r\n" if number % 3 else b"\n" for number in range(24)] if line_end == b"mixed" else [line_end] * 24
        content = b"".join(line + end for line, end in zip(planted_lines(), ends, strict=True))
        write(name, content if ends_with_newline else content.rstrip(b"\r\n"))
        config = load_data_config(str(write("data.toml", CONFIG % (0.9, name))), {})

        prepared = prepare(config, tmp_path / "cache")
        report = prepared.report.file("interactions")

        assert {line.line: line.kind for line in report.bad_lines} == {
            n: kind for n, (_, kind) in BAD_JSON_LINES.items()
        }
        assert report.rows_read == 22
        assert report.rows_kept == 5
        assert report.dropped == {
            "bad_json": 4,
            "missing_user": 1,
            "missing_item": 3,
            "missing_rating": 2,
            "unparsable_rating": 1,
            "rating_out_of_range": 1,
            "missing_timestamp": 1,
            "unparsable_timestamp": 1,
            "unknown_event_type": 1,
            "id_too_long": 1,
            "duplicate": 1,
        }
        rows = table_rows(prepared, "interactions")
        assert [row["item_id"] for row in rows] == ["i23", "i1", "i19", "i20", "i24"]
        assert rows[0]["event_type"] == "purchase"
        assert rows[0]["timestamp"] == 1_704_157_445_000_000  # 2024-01-02 01:04:05 UTC
        assert rows[1]["event_type"] == "click"

    def test_too_many_bad_lines_fail_the_run_and_are_listed(self, write, tmp_path: Path):
        write("rows.jsonl", b"\n".join(planted_lines()))
        config = load_data_config(str(write("data.toml", CONFIG % (0.5, "rows.jsonl"))), {})
        with pytest.raises(DataError, match=r"72\.73% of the lines .* max_bad_share = 50\.00%") as failure:
            prepare(config, tmp_path / "cache")
        assert "dropped: bad_json" in str(failure.value)
        assert "line 9: missing_rating:" in str(failure.value)
        assert not list((tmp_path / "cache" / "prepared").iterdir()), "a failed run leaves nothing"

    def test_only_the_first_bad_lines_are_kept_and_all_are_counted(self, write, tmp_path: Path):
        lines = [GOOD % number if number % 2 else "{bad" for number in range(1, 101)]
        write("rows.jsonl", "\n".join(lines))
        config = load_data_config(str(write("data.toml", CONFIG % (0.5, "rows.jsonl"))), {})
        report = prepare(config, tmp_path / "cache").report.file("interactions")
        assert report.dropped == {"bad_json": 50}
        assert [line.line for line in report.bad_lines] == list(range(2, 42, 2))


CSV_CONFIG = """
name = "planted"
format = "table"
max_bad_share = 0.9
[interactions]
path = "%s"
user = "u"
item = "i"
rating = "r"
position = "p"
"""
CSV_LINES = [
    "u,i,r,p,note",
    'u1,i1,5,1,"a, b"',
    "",
    "u1,i2,5",
    "u1,i3,5,3,x,y",
    ",i4,5,4,x",
    "",
    "",
    'u1,"i""5",5,0,x',
    'u1,"i"6,5,6,x',
    "u1,i7,5,seven,x",
    "u1,i8,5.5,8,x",
    "u1,i9,,9,x",
    "u1,i10,4,,x",
    "u2,i11,4,10,",
]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_csv_counts_and_line_numbers(write, tmp_path: Path, name: str, line_end: str):
    write(name, line_end.join(CSV_LINES))
    prepared = prepare(load_data_config(str(write("data.toml", CSV_CONFIG % name)), {}), tmp_path / "cache")
    report = prepared.report.file("interactions")
    assert [(line.line, line.kind) for line in report.bad_lines] == [
        (4, "bad_csv"),
        (5, "bad_csv"),
        (6, "missing_user"),
        (10, "bad_csv"),
        (11, "unparsable_position"),
        (12, "rating_out_of_range"),
        (13, "missing_rating"),
        (14, "missing_position"),
    ]
    assert report.rows_read == 11
    assert report.bad_lines[0].text == "u1,i2,5"
    rows = [(row["user_id"], row["item_id"], row["timestamp"]) for row in table_rows(prepared, "interactions")]
    assert rows == [("u1", 'i"5', 0), ("u1", "i1", 0), ("u2", "i11", 0)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_csv_line_numbers_with_line_breaks_in_quotes(write, tmp_path: Path, name: str, line_end: str, encoding: str):
    lines = [
        "u,i,r,p,note",
        'u1,"é',
        "",
        '",5,1,é',
        "u1,i2,5",
        "",
        ',i4,5,4,"a',
        "",
        "",
        "é",
        '"',
        "u1,i7,5,seven,x",
        "u1,i3,5,3,x,y",
        'u1,"i""',
        '",5,2,x',
        ",i8,5,5,x",
    ]
    write(name, line_end.join(lines).encode(encoding))
    config = load_data_config(str(write("data.toml", CSV_CONFIG % name)), {"interactions.encoding": encoding})
    report = prepare(config, tmp_path / "cache").report.file("interactions")
    assert [(line.line, line.kind) for line in report.bad_lines] == [
        (5, "bad_csv"),
        (7, "missing_user"),
        (12, "unparsable_position"),
        (13, "bad_csv"),
        (16, "missing_user"),
    ]
    assert (report.rows_read, report.rows_kept) == (7, 2)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_data(write, tmp_path: Path, name: str):
    content = CSV_LINES[0] + "\nu1,i1,5,0,x\n" if name.endswith("csv") else '{"u": "u1", "i": "i1", "r": 5, "p": 0}\n'
    write(name, b"\xef\xbb\xbf" + content.encode())
    config = load_data_config(str(write("data.toml", CSV_CONFIG % name)), {})
    assert prepare(config, tmp_path / "cache").report.file("interactions").dropped == {}


def test_the_blank_column_that_pandas_writes(write, tmp_path: Path):
    write("rows.csv", ",u,i,r,p\n0,u1,i1,5,0\n1,u1,i2,5,1\n")
    config = load_data_config(str(write("data.toml", CSV_CONFIG % "rows.csv")), {})
    assert prepare(config, tmp_path / "cache").num_interactions == 2


def test_line_numbers_stay_right_deep_in_a_large_file(write, tmp_path: Path):
    """The file is large enough for DuckDB to read several blocks in parallel."""
    lines = [f"user-{n % 1000},item-{n},5,{n},{'pad' * 40}" for n in range(2, 400_002)]
    for number in (150_000, 399_999):
        lines[number - 2] = "broken"
    lines[300_000 - 2] = ",item,5,1,x"
    lines[200_000 - 2] = ""
    write("rows.csv", "\n".join([CSV_LINES[0], *lines]))
    prepared = prepare(load_data_config(str(write("data.toml", CSV_CONFIG % "rows.csv")), {}), tmp_path / "cache")
    report = prepared.report.file("interactions")
    assert [(line.line, line.kind) for line in report.bad_lines] == [
        (150_000, "bad_csv"),
        (300_000, "missing_user"),
        (399_999, "bad_csv"),
    ]
    assert report.rows_kept == 400_000 - 4


def test_csv_line_numbers_next_to_multibyte_characters(write, tmp_path: Path):
    write("rows.csv", CSV_LINES[0] + "\nu1,東,5,0,x\n\nu1,😀,6,1,x\n")
    config = load_data_config(str(write("data.toml", CSV_CONFIG % "rows.csv")), {})
    report = prepare(config, tmp_path / "cache").report.file("interactions")
    assert [(line.line, line.kind) for line in report.bad_lines] == [(4, "rating_out_of_range")]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error(write, tmp_path: Path, content: bytes):
    write("rows.jsonl", content)
    config = load_data_config(str(write("data.toml", CONFIG % (0.5, "rows.jsonl"))), {})
    with pytest.raises(DataError, match="the file has no rows"):
        prepare(config, tmp_path / "cache")


def test_nothing_left_is_an_error(write, tmp_path: Path):
    write("rows.jsonl", GOOD % 1)
    config = load_data_config(
        str(write("data.toml", CONFIG % (0.5, "rows.jsonl"))), {"min_rating": "6", "rating_scale_max": "10"}
    )
    with pytest.raises(DataError, match="no interaction is left"):
        prepare(config, tmp_path / "cache")


def test_a_truncated_gzip_file_is_an_error_that_names_it(write, tmp_path: Path):
    path = write("rows.jsonl.gz", "\n".join(GOOD % n for n in range(20_000)))
    path.write_bytes(path.read_bytes()[:-2000])
    config = load_data_config(str(write("data.toml", CONFIG % (0.5, "rows.jsonl.gz"))), {})
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz"):
        prepare(config, tmp_path / "cache")
