"""Times in every unit become microseconds, and a line with an invalid time is bad."""

from pathlib import Path

import pytest

from tests.trainer.data.conftest import table_rows
from trainer.core.errors import DataError
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
