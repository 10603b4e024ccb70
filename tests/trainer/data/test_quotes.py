"""Quotes that are never closed: the lines that they swallow are counted; values of several lines are read."""

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.data.conftest import Scanned, scanned, table_rows
from trainer.core.errors import DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

Read = Callable[..., Scanned]
CONFIG = """
name = "quotes"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
"""


def rows(num: int) -> list[str]:
    return ["u,i,r,t,note", *(f"u{n % 50},i{n // 50},{n % 5 + 1},{1_500_000_000 + n},n{n}" for n in range(num))]


def opened(line: str, note: str = "oops") -> str:
    return f'{line.rpartition(",")[0]},"{note}'


def closed(line: str) -> str:
    return f'{line.rpartition(",")[0]},again"'


@pytest.fixture
def read(write, tmp_path: Path) -> Read:
    def read_text(text: str | bytes, wanted: list[str], **keys: object) -> Scanned:
        return scanned(tmp_path / "work", write("rows.csv", text), wanted, **keys)

    return read_text


class TestLinesInsideOfQuotesAreCounted:
    """Line n of the file is `lines[n - 1]`."""

    @pytest.mark.parametrize("column", [["u"], ["note"]], ids=["unused", "used"])
    @pytest.mark.parametrize("num_inside", [0, 1, 2, 40, 4_000])
    def test_up_to_the_next_quote(self, read: Read, num_inside: int, column: list[str]):
        lines = rows(5_000)
        lines[499], lines[500 + num_inside] = opened(lines[499]), closed(lines[500 + num_inside])
        found = read("\n".join(lines), column)
        assert found.refused == [500]
        assert found.num_refused == num_inside + 2
        assert len(found.rows) == 5_000 - found.num_refused
        assert found.lines == [n for n in range(2, 5_002) if not 500 <= n <= 501 + num_inside]
        assert found.texts[0].startswith(f"a quote opens a value of {num_inside + 2:,} lines: u48,i9,")

    @pytest.mark.parametrize("end", ["", "\n"])
    @pytest.mark.parametrize("column", [["u"], ["note"]], ids=["unused", "used"])
    def test_up_to_the_end_of_the_file(self, read: Read, end: str, column: list[str]):
        lines = rows(300)
        lines[99] = opened(lines[99])
        found = read("\n".join(lines) + end, column)
        assert (found.refused, found.num_refused) == ([100], 202)
        assert found.lines == list(range(2, 100))
        assert "never ends" in found.texts[0]

    def test_several(self, read: Read):
        lines = rows(2_000)
        for start, stop in ((100, 200), (500, 700), (1_000, 1_001)):
            lines[start - 1] = opened(lines[start - 1])
            lines[stop - 1] = closed(lines[stop - 1])
        lines[1_499] = opened(lines[1_499])
        found = read("\n".join(lines), ["u"])
        assert found.refused == [100, 500, 1_000, 1_500]
        assert found.num_refused == 101 + 201 + 2 + 502
        assert found.lines == [
            n for n in range(2, 1_500) if not (100 <= n <= 200 or 500 <= n <= 700 or 1_000 <= n <= 1_001)
        ]

    def test_that_end_at_the_opening_quote_of_another_value(self, read: Read):
        lines = rows(100)
        lines[49] = opened(lines[49])
        lines[69] = opened(lines[69], 'a title"')
        found = read("\n".join(lines), ["u"])
        assert (found.refused, found.num_refused) == ([50], 21)
        assert found.lines == [*range(2, 50), *range(71, 102)]
        assert "in the middle of another value" in found.texts[0]

    def test_with_blank_and_broken_lines_among_them(self, read: Read):
        lines = rows(40)
        lines[9:13] = [opened(lines[9]), "", lines[11], "no row"]
        lines[13:17] = [lines[13], "", lines[15], closed(lines[16])]
        lines[29:31] = [f'{lines[29].rpartition(",")[0]},"," "', closed(lines[30])]
        found = read("\n".join(lines), ["u"])
        assert (found.refused, found.num_refused) == ([10, 30], 8 + 2)
        assert found.lines == [n for n in range(2, 42) if not 10 <= n <= 17 and n not in {30, 31}]

    def test_in_a_file_whose_values_are_all_in_quotes(self, read: Read):
        lines = [f'"u{n}","a ""b"" c","{n}"' for n in range(200)]
        lines[99] = '"u99","not closed,"7"'
        lines[149] = '"u149","x","not closed'
        found = read("\n".join(["u,i,r", *lines]), ["u", "i"])
        assert [line for line in range(2, 202) if line not in found.lines] == [101, 151, 152]
        assert (found.refused, found.num_refused) == ([101, 151], 3)
        assert set(found.rows) == {(f"u{n}", 'a "b" c') for n in range(200) if n not in {99, 149, 150}}

    def test_in_a_table_with_tabs(self, read: Read):
        """The names of artists in Last.fm's artists.dat; quote = "" reads them all."""
        lines = [f"{n}\tArtist {n}\thttp://x/{n}" for n in range(1, 400)]
        lines[99] = '100\t"Weird Al" Yankovic\thttp://x/100'
        lines[199] = '200\t"Heroes\thttp://x/200'
        lines[250] = '251\tThe 12" Mix\thttp://x/251'
        text = "\n".join(["id\tname\turl", *lines])
        found = read(text, ["id", "name"], delimiter="\t")
        # The quote of line 201 ends at that of line 252.
        assert (found.refused, found.num_refused) == ([101, 201], 1 + 52)
        assert found.lines == [n for n in range(2, 401) if n != 101 and not 201 <= n <= 252]
        found = read(text, ["id", "name"], delimiter="\t", quote="")
        assert (found.num_refused, len(found.rows)) == (0, 399)
        assert found.rows[99] == ("100", '"Weird Al" Yankovic')

    def test_with_a_delimiter_of_two_characters(self, read: Read):
        lines = [f"{n}::Title {n}::Drama" for n in range(1, 101)]
        lines[9], lines[29] = '10::"open::Drama', '30::b::closed"'
        found = read("\n".join(lines), ["id"], delimiter="::", header=False, columns=["id", "title", "genres"])
        assert (found.refused, found.num_refused) == ([10], 21)
        assert found.lines == [*range(1, 10), *range(31, 101)]

    def test_across_the_blocks_of_a_large_file(self, write, tmp_path: Path):
        lines = rows(60_000)
        padding = "x" * 60
        lines = [f"{line}{padding}" for line in lines]
        lines[20_000], lines[50_000] = opened(lines[20_000]), closed(lines[50_000])
        path = write("rows.csv.gz", "\r\n".join(lines))
        found = scanned(tmp_path / "work", path, ["u"])
        assert (found.refused, found.num_refused) == ([20_001], 30_001)
        assert found.lines == [*range(2, 20_001), *range(50_002, 60_002)]


class TestTheShareOfBadLines:
    def test_counts_lines(self, write, tmp_path: Path):
        lines = rows(1_000)
        lines[499], lines[899] = opened(lines[499]), closed(lines[899])
        write("rows.csv", "\n".join(lines))
        path = str(write("data.toml", CONFIG))
        with pytest.raises(DataError, match=r"40\.10% of the lines of .*rows\.csv are bad") as failure:
            prepare(load_data_config(path, {}), tmp_path / "cache")
        assert "401  dropped: bad_csv" in str(failure.value)
        assert "first 1 of 401 bad lines" in str(failure.value)
        assert "line 500: bad_csv: a quote opens a value of 401 lines: u48,i9,4,1500000498," in str(failure.value)

    def test_is_that_of_the_limit(self, write, tmp_path: Path):
        lines = rows(1_000)
        lines[899] = opened(lines[899])
        write("rows.csv", "\n".join(lines))
        config = load_data_config(str(write("data.toml", CONFIG)), {"max_bad_share": "0.11"})
        report = prepare(config, tmp_path / "cache").report.file("interactions")
        assert (report.rows_read, report.rows_kept, report.dropped) == (1_000, 898, {"bad_csv": 102})


class TestValuesOfSeveralLines:
    @pytest.mark.parametrize("num_lines", [2, 30, 400])
    @pytest.mark.parametrize("text", ["A sentence, with a comma.", "", 'He said ""no"", twice, or, so', "a;b"])
    def test_are_read(self, read: Read, num_lines: int, text: str):
        value = "\n".join([f"{text}{n}" for n in range(num_lines)])
        lines = ["id,title,note", f'1,"{value}",x', "2,b,x", f'3,"{value}","{value}"', "4,d,x,y", "5,e,x"]
        found = read("\n".join(lines), ["id", "title"])
        assert [row[0] for row in found.rows] == ["1", "2", "3", "5"]
        assert found.rows[0][1] == value.replace('""', '"')
        assert found.lines == [2, num_lines + 2, num_lines + 3, 3 * num_lines + 3]
        assert (found.refused, found.num_refused) == ([3 * num_lines + 2], 1)

    @pytest.mark.parametrize(
        "value", ["Tracks:\n1, Intro, 3:20\n2, Song, 4:10", "a\nb,c,d", "1,2,3\n4,5,6", "x\n1234567", ",,\n,,"]
    )
    def test_are_read_if_they_hold_a_few_lines_with_delimiters(self, read: Read, value: str):
        found = read(f'id,about,note\n10,"{value}",x\n11,b,c\n', ["id", "about"])
        assert found.rows == [("10", value), ("11", "b")]

    def test_are_read_in_the_header(self, read: Read):
        found = read('id,"a\nname",note\n1,b,c\n,d\n2,e,f\n', ["id", "a\nname"])
        assert found.rows == [("1", "b"), ("2", "e")]
        assert (found.lines, found.refused) == ([3, 5], [4])

    def test_are_refused_beyond_a_thousand_lines(self, read: Read):
        found = read('id,title\n1,"' + "a\n" * 1_000 + '"\n2,b\n', ["id"])
        assert (found.rows, found.lines, found.num_refused) == ([("2",)], [1_003], 1_001)

    def test_are_read_like_pythons_csv_module_does(self, read: Read):
        """Random tables with quotes, delimiters and line breaks inside of values, written by Python."""
        generator = random.Random(3)
        pieces = ['"', ",", "\n", "a", "b c", " ", "ü", "'", "\\", ""]
        for _ in range(20):
            table = [
                [f"{n}x", *("".join(generator.choices(pieces, k=generator.randrange(6))) for _ in range(2)), "z"]
                for n in range(60)
            ]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([["id", "a", "b", "c"], *table])
            found = read(text.getvalue(), ["id", "a", "b", "c"])
            assert found.num_refused == 0
            assert found.rows == [tuple(value or None for value in row) for row in table]
            starts = [text.getvalue()[: text.getvalue().index(f"\n{row[0]},")].count("\n") + 2 for row in table]
            assert found.lines == starts


class TestEscapes:
    TEXT = 'id,title,note\n1,"a \\"b\\" c",x\n2,"d, \\\\",x\n3,"e ""f"" g",x\n4,"back\\\nslash",x\n5,\\n,x\n'

    def test_a_backslash_before_quotes(self, read: Read):
        found = read(self.TEXT, ["id", "title"], escape="\\")
        assert found.rows == [("1", 'a "b" c'), ("2", "d, \\"), ("4", "back\nslash"), ("5", "\\n")]
        assert (found.lines, found.refused) == ([2, 3, 5, 7], [4])

    def test_quotes_are_doubled_without_the_key(self, read: Read):
        found = read('id,title\n1,"a \\"b\\" c"\n2,"e ""f"" g"\n', ["id", "title"])
        assert (found.rows, found.refused) == ([("2", 'e "f" g')], [2])

    def test_an_unclosed_quote(self, read: Read):
        lines = [f'{n},"t \\"{n}\\"",x' for n in range(1, 101)]
        lines[49] = '50,"t \\"50\\",x'
        found = read("\n".join(["id,title,note", *lines]), ["id"], escape="\\")
        assert (found.refused, found.num_refused) == ([51], 2)
        assert len(found.rows) == 98


def test_the_table_of_prepared_data_holds_values_of_several_lines(write, tmp_path: Path):
    write("rows.csv", "\n".join(rows(10)))
    items = '\n[items]\npath = "items.csv"\nid = "id"\ndescription = "about"\n'
    value = "\n".join(f"Paragraph {n}, of a text." for n in range(30))
    write("items.csv", f'id,about,x\ni0,"{value}",1\ni9,short,2\n')
    prepared = prepare(load_data_config(str(write("data.toml", CONFIG + items)), {}), tmp_path / "cache")
    about = {row["item_id"]: row["description"] for row in table_rows(prepared, "items")}
    assert about == {"i0": value.replace("\n", " "), "i9": "short"}
