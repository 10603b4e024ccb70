"""Several files as one source: folders, patterns and lists, with line numbers of each file."""

import gzip
from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, parquet_bytes, scanned
from tests.trainer.data.serving_files import ServedFile, serve
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare
from trainer.data.source_files import source_files

CONFIG = """
name = "parts"
format = "table"
max_bad_share = 0.5
[interactions]
path = {path}
user = "u"
item = "i"
rating = "r"
timestamp = "t"
"""


def rows(part: int, num: int = 20) -> list[dict[str, object]]:
    return [{"u": f"u{n % 3}", "i": f"p{part}i{n}", "r": 5, "t": 1_500_000_000 + n} for n in range(num)]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder as Spark writes it."""
    folder = tmp_path / "out"
    folder.mkdir()
    for part in range(3):
        (folder / f"part-0000{part}.csv").write_text(csv_text(rows(part)))
        (folder / f".part-0000{part}.csv.crc").write_bytes(b"crc\0")
    (folder / "part-00003.csv").write_bytes(b"")
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


def prepared(tmp_path: Path, path: str, **overrides: str):
    (tmp_path / "data.toml").write_text(CONFIG.format(path=path))
    return prepare(load_data_config(str(tmp_path / "data.toml"), overrides), tmp_path / "cache")


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            '"out"',
            '"out/"',
            '"out/part-*.csv"',
            '"o?t/part-0000[0-9].csv"',
            '"**/part-*.csv"',
            '["out/part-00000.csv", "out/part-00001.csv", "out/part-00002.csv"]',
            '["out/part-00000.csv", "out/part-0000[12].csv"]',
        ],
    )
    def test_of_several_files(self, parts: Path, tmp_path: Path, path: str):
        found = prepared(tmp_path, path)
        assert (found.num_users, found.num_items, found.num_interactions) == (3, 60, 60)
        report = found.report.file("interactions")
        assert (report.rows_read, report.path) == (60, f"{parts / 'part-00000.csv'} and 2 more files")

    def test_keep_the_order_of_a_list(self, parts: Path, tmp_path: Path):
        names = [str(parts / f"part-0000{part}.csv") for part in (2, 0, 1)]
        assert [path.name for path in source_files(names, downloads=tmp_path)] == [Path(name).name for name in names]

    def test_of_a_pattern_are_in_the_order_of_names(self, parts: Path, tmp_path: Path):
        found = source_files("part-*.csv", folder=parts, downloads=tmp_path)
        assert [path.name for path in found] == [f"part-0000{part}.csv" for part in range(3)]

    def test_that_are_a_file_are_no_pattern(self, parts: Path, tmp_path: Path):
        (parts / "part-*.csv").write_text(csv_text(rows(9)))
        assert source_files("part-*.csv", folder=parts, downloads=tmp_path) == (parts / "part-*.csv",)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("none.csv", r"none\.csv: no such file$"),
            ("s3://bucket/a.csv", r"^s3://bucket/a\.csv: neither a path of this machine nor an http\(s\) URL$"),
            ("none-*.csv", r"none-\*\.csv: no such file, and as a pattern it matches none"),
            ("empty", "empty: the folder holds no file"),
            ("deep", r"deep: holds the folder 'day=1', and only files are read from a folder; .*\"deep/\*\*/\*\.csv\""),
        ],
    )
    def test_without_files_are_an_error(self, tmp_path: Path, path: str, message: str):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "_SUCCESS").touch()
        (tmp_path / "deep" / "day=1").mkdir(parents=True)
        with pytest.raises(DataError, match=message):
            source_files(path, folder=tmp_path, downloads=tmp_path)

    def test_repeated_are_an_error(self, parts: Path, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"part-00001\.csv: named twice in part-00001\.csv, part-\*\.csv"):
            source_files(["part-00001.csv", "part-*.csv"], folder=parts, downloads=tmp_path)

    def test_of_several_files_have_no_checksum(self, parts: Path, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"sha256 is the checksum of one file, but part-\*\.csv names 3"):
            source_files("part-*.csv", folder=parts, downloads=tmp_path, sha256="0" * 64)

    def test_must_not_be_an_empty_list(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"interactions\.path"):
            prepared(tmp_path, "[]")

    @pytest.mark.process
    def test_may_be_urls(self, parts: Path, tmp_path: Path):
        with serve(ServedFile((parts / "part-00001.csv").read_bytes())) as served:
            found = prepared(tmp_path, f'["out/part-00000.csv", "{served.url.rsplit("/", 1)[0]}/rows.csv"]')
        assert found.num_interactions == 40


def test_the_content_of_every_file_counts(parts: Path, tmp_path: Path):
    first = prepared(tmp_path, '"out"')
    assert prepared(tmp_path, '"out"').directory == first.directory
    (parts / "part-00002.csv").write_text(csv_text(rows(2, 19)))
    second = prepared(tmp_path, '"out"')
    assert second.directory != first.directory
    assert (second.num_interactions, second.fingerprint == first.fingerprint) == (59, False)
    (parts / "part-00002.csv").rename(parts / ".part-00002.csv")
    assert prepared(tmp_path, '"out"').num_interactions == 40


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "mixed", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", ["parts", "u=1 [x]*"])
def test_bad_lines_have_the_numbers_of_their_files(tmp_path: Path, kind: str, folder: str):
    (tmp_path / folder).mkdir()
    paths = []
    for part in range(4):
        suffix = ("csv.gz" if part % 2 else "csv") if kind == "mixed" else kind
        path = tmp_path / folder / f"part-{part}.{suffix}"
        # The second part has bad lines alone, the third a record of two lines.
        table = [{"u": "" if n == 3 or part == 1 else f"u{n}", "i": f"i{part}-{n}", "n": n} for n in range(10)]
        if kind == "parquet":
            path.write_bytes(parquet_bytes(table))
        elif kind == "jsonl":
            path.write_text(jsonl_text(table) + "{bad\n")
        else:
            text = csv_text(table).replace("i2-0", '"i2\n-0"') + "bad\n" + ("" if part else "\n\r\n")
            path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
        paths.append(path)
    columns = {"interactions.path": str(tmp_path / folder)}
    config = 'name = "x"\nformat = "table"\nmax_bad_share = 0.9\n[interactions]\npath = "x"\nuser = "u"\nitem = "i"\n'
    (tmp_path / "data.toml").write_text(f'{config}position = "n"\n')
    report = prepare(load_data_config(str(tmp_path / "data.toml"), columns), tmp_path / "cache").report
    found = [(bad.file, bad.line, bad.kind) for bad in report.file("interactions").bad_lines]
    first, is_text, two = (1, True, 1) if kind not in {"jsonl", "parquet"} else (0, kind == "jsonl", 0)
    bad_kind = "bad_json" if kind == "jsonl" else "bad_csv"
    expected = []
    for part, path in enumerate(paths):
        shift = first + (two if part == 2 else 0)
        expected += [(path.name, n + 1 + shift, "missing_user") for n in (range(10) if part == 1 else [3])]
        expected += [(path.name, 11 + shift, bad_kind)] * is_text
    assert found == expected
    assert report.file("interactions").to_text().count(f"    {paths[1].name}, line ") == 10 + is_text


class TestPartsThatDiffer:
    def test_in_their_header(self, parts: Path, tmp_path: Path):
        (parts / "part-00001.csv").write_text("i,u,r,t\n1,2,3,4\n")
        with pytest.raises(DataError, match=r"part-00001\.csv: its header is not that of part-00000\.csv: i, u, r, t"):
            prepared(tmp_path, '"out"')

    def test_in_the_columns_of_parquet(self, tmp_path: Path):
        for name, column in (("a", "i"), ("b", "j")):
            (tmp_path / f"{name}.parquet").write_bytes(parquet_bytes([{"u": "1", column: "2"}]))
        with pytest.raises(
            DataError, match=r"b\.parquet: its columns are not those of a\.parquet: u, j instead of u, i"
        ):
            scanned(tmp_path / "work", [tmp_path / "a.parquet", tmp_path / "b.parquet"], ["u"])

    def test_in_the_types_of_parquet(self, tmp_path: Path):
        """pandas writes a column without a value as nulls, and one with some as floating-point numbers."""
        paths = [tmp_path / f"{name}.parquet" for name in "abc"]
        for path, value in zip(paths, (None, 7, 1.5), strict=True):
            path.write_bytes(parquet_bytes([{"u": value, "i": 1}]))
        found = scanned(tmp_path / "work", paths, ["u", "i"])
        assert found.rows == [(None, 1), (7.0, 1), (1.5, 1)]
        assert found.files == ["a.parquet", "b.parquet", "c.parquet"]

    def test_in_their_format(self, tmp_path: Path):
        (tmp_path / "a.csv").write_text("u\n1\n")
        (tmp_path / "b.jsonl").write_text('{"u": 1}\n')
        with pytest.raises(ConfigError, match=r"a\.csv and b\.jsonl are of different formats"):
            scanned(tmp_path / "work", [tmp_path / "a.csv", tmp_path / "b.jsonl"], ["u"])

    def test_in_an_unclosed_quote(self, parts: Path, tmp_path: Path):
        """The lines of the next file are not swallowed."""
        text = (parts / "part-00001.csv").read_text()
        (parts / "part-00001.csv").write_text(text.replace("p1i10", '"p1i10'))
        report = prepared(tmp_path, '"out"').report.file("interactions")
        assert (report.rows_read, report.dropped) == (60, {"bad_csv": 10})
        assert [(bad.file, bad.line) for bad in report.bad_lines] == [("part-00001.csv", 12)]


def test_amazon_reviews_may_be_several_files(tmp_path: Path):
    for part in range(2):
        reviews = [
            {"reviewerID": f"u{n}", "asin": f"a{part}", "overall": 5.0, "unixReviewTime": 1_400_000_000}
            for n in range(3)
        ]
        (tmp_path / f"reviews-{part}.json").write_text(jsonl_text(reviews))
    config = load_data_config("amazon", {"reviews": str(tmp_path / "reviews-*.json"), "k_core": "0"})
    assert prepare(config, tmp_path / "cache").num_interactions == 6
