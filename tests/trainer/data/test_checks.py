"""What looks wrong in prepared data is said in words at the end, and fails the run from a limit on."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text
from tests.trainer.data.plain_table import HEAD, prepare_table
from trainer.commands.cli import main
from trainer.core.errors import ConfigError, DataError

BY_TIME = 'path = "r.csv"\ntimestamp = "t"\n'
ITEMS = '[items]\npath = "it.csv"\nid = "id"\n'
START = 1_500_000_000


def rows_of(num_users: int, num_items: int) -> list[dict[str, object]]:
    """Every user with every item, each at a time of its own."""
    pairs = [(user, item) for user in range(1, num_users + 1) for item in range(1, num_items + 1)]
    return [
        {"u": f"u{user}", "i": f"i{item}", "r": 1 + number % 5, "t": START + number}
        for number, (user, item) in enumerate(pairs)
    ]


def found(prepared) -> dict[str, tuple[str, float]]:
    return {finding.check: (finding.level, finding.share) for finding in prepared.findings}


@pytest.fixture
def rows() -> list[dict[str, object]]:
    return rows_of(40, 10)


def prepare_rows(write, tmp_path: Path, rows, keys: str = "", **more: str):
    write("r.csv", csv_text(rows))
    return prepare_table(tmp_path, BY_TIME + keys, **more)


def test_good_data_have_no_findings(write, tmp_path: Path, rows):
    write("it.csv", csv_text([{"id": f"i{item}"} for item in range(1, 11)]))
    assert prepare_rows(write, tmp_path, rows, 'rating = "r"\n', sections=ITEMS).findings == ()


def test_an_items_file_that_nothing_joins_fails_and_shows_ids_of_both(write, tmp_path: Path, rows):
    write("it.csv", csv_text([{"id": f"sku-{item}"} for item in range(1, 11)]))
    text = r"FAIL unmatched_items: 400 of 400 interactions .*it\.csv: 'i1', 'i10', 'i2'; its ids are like 'sku-1'"
    with pytest.raises(DataError, match=text):
        prepare_rows(write, tmp_path, rows, sections=ITEMS)
    sections = ITEMS + "[checks]\nunmatched_items_fail = 2\n"
    assert found(prepare_rows(write, tmp_path, rows, sections=sections)) == {"unmatched_items": ("warn", 1.0)}


def test_ids_that_differ_in_case_are_named(write, tmp_path: Path, rows):
    write("it.csv", csv_text([{"id": "i1"}, *({"id": f"I{item}"} for item in range(2, 11))]))
    prepared = prepare_rows(write, tmp_path, rows, sections=ITEMS)
    assert found(prepared) == {"unmatched_items": ("warn", 0.9), "case_of_ids": ("warn", 0.9)}
    assert "360 interactions would have an item" in str(prepared.findings)


@pytest.mark.parametrize(("word", "level"), [("NULL", "fail"), ("None", "fail"), ("nan", "fail"), ("[]", "fail")])
def test_a_user_called_null_fails_and_names_the_key(write, tmp_path: Path, rows, word: str, level: str):
    for row in rows[::3]:
        row["u"] = word
    with pytest.raises(DataError, match=r"FAIL missing_ids: 134 of 400 rows are of the user .* interactions\.nulls"):
        prepare_rows(write, tmp_path, rows)
    prepared = prepare_rows(write, tmp_path, rows, f'nulls = ["{word}"]\n')
    assert prepared.report.file("interactions").dropped == {"missing_user": 134}


def test_an_artist_called_nan_is_no_finding(write, tmp_path: Path):
    rows = rows_of(20, 200)
    for row in rows:
        row["i"] = "nan" if row["i"] == "i7" else row["i"]
    assert prepare_rows(write, tmp_path, rows).findings == ()


def test_the_first_of_numbered_users_is_no_finding_and_one_of_all_is(write, tmp_path: Path, rows):
    for row in rows:
        row["u"] = str(row["u"]).removeprefix("u")
        row["u"] = "0" if row["u"] == "1" else row["u"]
    assert prepare_rows(write, tmp_path, rows).findings == ()
    for number, row in enumerate(rows[10:210]):
        row["u"], row["i"] = "0", f"x{number}"
    with pytest.raises(DataError, match="FAIL missing_ids: 210 of 400 rows are of the user '0'"):
        prepare_rows(write, tmp_path, rows)


def test_one_user_and_one_item_with_most_rows(write, tmp_path: Path):
    rows = rows_of(200, 2)
    for number, row in enumerate(rows[:200]):
        row["u"], row["i"] = "bot", f"x{number}"
    assert found(prepare_rows(write, tmp_path, rows)) == {"one_user": ("warn", 0.5)}
    more = rows_of(400, 1) + [{"u": f"u{n}", "i": f"x{n}", "r": 1, "t": START + n} for n in range(1, 100)]
    assert found(prepare_rows(write, tmp_path, more)) == {"one_item": ("warn", pytest.approx(400 / 499, abs=1e-6))}


def test_a_wrong_unit_and_equal_times(write, tmp_path: Path, rows):
    assert found(prepare_rows(write, tmp_path, rows, 'timestamp_unit = "milliseconds"\n')) == {
        "times_in_1970": ("warn", 1.0)
    }
    for row in rows:
        row["t"] = START
    assert found(prepare_rows(write, tmp_path, rows)) == {"equal_times": ("warn", 1.0)}


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ((0,), "probably missing, cut, or in another unit than the others"),
        (tuple(45_000 + number / 400 for number in range(400)), "probably days as Excel counts them: write dates"),
    ],
    ids=["one of many", "days of Excel"],
)
def test_what_times_in_1970_probably_are(write, tmp_path: Path, rows, times: tuple[float, ...], why: str):
    for row, time in zip(rows, times, strict=False):
        row["t"] = time
    (finding,) = prepare_rows(write, tmp_path, rows).findings
    assert (finding.check, finding.share) == ("times_in_1970", round(len(times) / 400, 6))
    assert why in finding.text


@pytest.mark.parametrize(
    ("first", "second"),
    [("007", "07"), ("caf\u00e9", "cafe\u0301"), ("a\u200bb", "ab"), ("Bob@Shop.com", "bob@shop.com")],
)
def test_spellings_of_one_id_are_named(write, tmp_path: Path, rows, first: str, second: str):
    for row in rows[:10]:
        row["u"] = first
    for row in rows[10:20]:
        row["u"] = second
    (finding,) = prepare_rows(write, tmp_path, rows).findings
    assert (finding.check, finding.level, finding.share) == ("similar_ids", "warn", 0.05)
    assert f"{min(first, second)!a} and {max(first, second)!a}" in finding.text


@pytest.mark.parametrize("form", ['="{}"', "'{}'", "\u201c{}\u201d", "'{}"])
def test_ids_in_quotes_are_named(write, tmp_path: Path, rows, form: str):
    for number, row in enumerate(rows):
        row["u"] = form.format(number // 10).replace('"', '""')
        row["u"] = f'"{row["u"]}"'
    (finding,) = prepare_rows(write, tmp_path, rows).findings
    assert (finding.check, finding.level, finding.share) == ("quoted_ids", "warn", 1.0)


def test_duplicates_and_a_constant_rating(write, tmp_path: Path, rows):
    for row in rows:
        row["r"] = 5
    assert found(prepare_rows(write, tmp_path, [*rows, *rows], 'rating = "r"\n')) == {
        "duplicates": ("warn", 0.5),
        "constant_rating": ("warn", 1.0),
    }


def test_users_that_do_not_join_and_missing_numbers(write, tmp_path: Path, rows):
    users = [{"id": f"u{user}", "age": "nan" if user == 3 else 20 + user} for user in range(1, 41)]
    write("us.csv", csv_text(users))
    sections = '[users]\npath = "us.csv"\nid = "id"\nfeatures = { age = "age" }\n'
    prepared = prepare_rows(write, tmp_path, rows, sections=sections)
    assert found(prepared) == {"missing_numbers": ("warn", 0.025)}
    assert "the feature 'age' but 'nan'" in str(prepared.findings[0])
    write("us.csv", csv_text([{**user, "id": f"user-{user['id']}"} for user in users]))
    with pytest.raises(DataError, match="FAIL unmatched_users: 40 of 40 users are not in"):
        prepare_rows(write, tmp_path, rows, sections=sections)


def test_a_word_in_a_feature_of_numbers_is_named(write, tmp_path: Path, rows):
    write(
        "us.csv", csv_text([{"id": f"u{user}", "age": "thirty" if user == 3 else 20 + user} for user in range(1, 41)])
    )
    sections = '[users]\npath = "us.csv"\nid = "id"\nfeatures = { age = "age" }\n'
    prepared = prepare_rows(write, tmp_path, rows, sections=sections)
    assert found(prepared) == {"words_among_numbers": ("warn", 0.025)}
    assert "the feature 'age' but 'thirty'" in str(prepared.findings[0])


def test_a_limit_is_a_key_of_the_configuration(tmp_path: Path, write, rows):
    for key in ("checks.one_user_warn = 0", "checks.no_such = 1", "checks.one_user_fail = nan"):
        with pytest.raises(ConfigError, match=key.split(" ")[0].replace(".", r"\.")):
            prepare_rows(write, tmp_path, rows, head=key)


def test_prepare_ends_with_the_findings_and_their_json(write, tmp_path: Path, rows, monkeypatch, capsys):
    monkeypatch.setenv("TANDEM_DATA_DIR", str(tmp_path / "data"))
    for row in rows:
        row["t"] = START
    write("r.csv", csv_text(rows))
    write("d.toml", f'{HEAD}[interactions]\nuser = "u"\nitem = "i"\n{BY_TIME}')
    assert main(["prepare", "--dataset", str(tmp_path / "d.toml")]) == 0
    *_, words, last = capsys.readouterr().out.strip().splitlines()
    assert words == "check: WARN equal_times: all 400 rows have the same time, so only the file orders them"
    (finding,) = json.loads(last)["findings"]
    assert (finding["check"], finding["level"], finding["share"]) == ("equal_times", "warn", 1.0)
