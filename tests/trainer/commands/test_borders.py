"""Arguments that no command can use: one line on standard error that names them, and the exit status of a mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.commands.cli import main


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files by what they are."""
    monkeypatch.setenv("TANDEM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    names = {name: str(tmp_path / name) for name in ("missing", "folder", "binary", "loop", "pipe")}
    no_text = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    return {**names, "long": "a" * 5000, "device": "/dev/zero", "no text": no_text, "blank": " ", "control": "a\x1b[2J"}


NAMES = ("missing", "folder", "binary", "loop", "pipe", "long", "device", "no text", "blank", "control")


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs a command; returns its exit status and the last line on standard error."""
    try:
        status = main(arguments)
    except SystemExit as left:
        status = int(str(left.code))
    lines = capsys.readouterr().err.splitlines()
    return status, lines[-1] if lines else ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["prepare", "--dataset", "?"], 2),
        (["prepare", "--dataset", "amazon", "--reviews", "?"], 1),
        (["features", "--prepared", "?"], 1),
        (["features", "--config", "?"], 2),
    ],
    ids=lambda value: " ".join(value[:-1]) if isinstance(value, list) else "",
)
def test_a_path_that_cannot_be_read_is_named(
    arguments: list[str], status: int, name: str, named: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = named[name]
    found, line = ended([path if argument == "?" else argument for argument in arguments], capsys)
    assert "unexpected" not in line
    assert "\x1b" not in line
    if name == "blank":
        assert found == 2
        assert line.endswith(": must not be blank")
        return
    assert found in {status, 2} if name == "no text" else found == status, line
    shown = path.encode("unicode_escape").decode() if name in {"no text", "control"} else Path(path).name
    assert shown in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--split-seed", "-1"], "--split-seed: must be a whole number of at least 0, not '-1'"),
        (["tune", "--trials", "9" * 5000], "--trials: must be a whole number of at least 1"),
        (["tune", "--study", "a\nb"], "--study: must be printable text that is not blank, not 'a\\nb'"),
        (["replay", "--days", "1_0"], "--days: must be a whole number of at least 1, not '1_0'"),
        (["replay", "--share", "nan"], "--share: nan is not above 0 and below 1"),
        (["versions", "--limit", "inf"], "--limit: must be a whole number of at least 0, not 'inf'"),
        (["promote", ""], "must have 1 to 256 bytes of UTF-8, not 0"),
        (["validate", "1", "--events", "e"], "--events: describes a data set, which --dataset must name"),
        (["validate", "1", "--set", "data.k_core=2"], "--set data.k_core=...: describes a data set, which --dataset"),
        (["prepare", "--until", "9999-12-31"], "until: must be before 9999-12-31"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = ended(arguments, capsys)
    assert status == 2
    assert message in line


@pytest.mark.process
@pytest.mark.parametrize("database", ["folder", "binary", "pipe"])
def test_a_registry_that_is_no_database_is_named(
    database: str, named: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{named[database]}")
    status, line = ended(["versions"], capsys)
    assert (status, line.startswith(f"error: sqlite:///{named[database]}: ")) == (1, True)
