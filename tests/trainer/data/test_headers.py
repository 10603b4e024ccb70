"""The line that names the columns: what is wrong with it is said in words, and what would mend it."""

import codecs
from pathlib import Path

import pytest

from tests.trainer.data.conftest import scanned
from trainer.core.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u;i;r\n1;2;3\n", r"no column 'u'; its columns are u;i;r; did you mean delimiter = \";\"\?"),
        ('"u";"i"\n"1";"2"\n', r"did you mean delimiter = \";\"\?"),
        ("u\ti\tr\n1\t2\t3\n", r"its columns are 'u\\ti\\tr'; did you mean delimiter = \"\\t\"\?"),
        ("u|i\n1|2\n", r"did you mean delimiter = \"\|\"\?"),
        ("u::i\n1::2\n", r"did you mean delimiter = \"::\"\?"),
        ("U,I\n1,2\n", r"its columns are U, I; did you mean 'U'\?"),
        ("'u','i'\n'1','2'\n", r"its columns are 'u', 'i'; did you mean quote = \"'\"\?"),
        ("# 2024\n\nu,i\n1,2\n", r"its columns are # 2024; line 3 has it: remove the lines above$"),
        ("+--+\n|u|i|\n+--+\n|1|2|\n", r"its columns are \+--\+$"),
        ('{"u": 1, "i": 2}\n', r"it looks like JSON: set file_format = \"jsonl\"$"),
        ("a,b\n1,2\n", r"its columns are a, b$"),
        (",".join(f"c{n}" for n in range(150)), r"c98, c99, and 50 more$"),
        ("sep=;\nu;i\n1;2\n", r"the first line is 'sep=;', which Excel adds; remove it, and set delimiter"),
        ("u,\0i\n1,2\n", r"the first line, which names the columns, has NUL bytes"),
        ('u,"i\n1,2\n', r"the first line, which names the columns: a quote opens a value that never ends: u,\"i"),
        ('"u,i\n1,2\n', r"the first line, which names the columns: a quote opens a value that never ends"),
        ("\nu,i\n1,2\n", r"the first line is blank, but should name the columns"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, message: str):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises((ConfigError, DataError), match=rf"rows\.csv.*{message}") as failure:
        scanned(tmp_path / "work", path, ["u"])
    assert str(failure.value).isprintable()


def test_a_name_that_differs_in_signs_is_proposed(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("User ID,i\n1,2\n")
    with pytest.raises(ConfigError, match=r"no column 'user_id'; its columns are User ID, i; did you mean 'User ID'\?"):
        scanned(tmp_path / "work", tmp_path / "rows.csv", ["user_id"])


def test_the_other_delimiter_is_read(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("u;i\n1,5;2\n")
    assert scanned(tmp_path / "work", path, ["u", "i"], delimiter=";").rows == [("1,5", "2")]


@pytest.mark.parametrize("has_header", [True, False])
def test_every_file_may_have_a_byte_order_mark(tmp_path: Path, has_header: bool):
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for number, path in enumerate(paths):
        text = f"u,i\nu{number},1\n" if has_header else f"u{number},1\n"
        path.write_bytes((codecs.BOM_UTF8 if number < 2 else b"") + text.encode())
    keys = {} if has_header else {"header": False, "columns": ["u", "i"]}
    found = scanned(tmp_path / "work", paths, ["u"], **keys)
    assert found.rows == [("u0",), ("u1",), ("u2",)]
    assert found.lines == [1 + has_header] * 3


def test_blank_lines_are_no_rows_in_a_file_of_one_column(tmp_path: Path):
    path = tmp_path / "users.csv"
    path.write_text('id\na\n\nb\n"c\n\nd"\n\ne\n"f\n1\n')
    found = scanned(tmp_path / "work", path, ["id"])
    assert found.rows == [("a",), ("b",), ("c\n\nd",), ("e",)]
    assert (found.lines, found.refused, found.num_refused) == ([2, 4, 5, 9], [10], 2)
