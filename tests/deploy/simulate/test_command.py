"""Arguments that cannot be used: one line each, which names the argument."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.ports import free_port
from deploy.simulate.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--world", "w", "--rate", "0"], "--rate: must be a number from 0.1 to 100000"),
        (["run", "--world", "w", "--days", "0"], "--days: must be a whole number from 1 to 10000"),
        (["run", "--world", "w", "--users", "0"], "--users: must be a whole number of at least 1"),
        (["world", "w", "--items", "3"], "--items: must be a whole number from 20 to 100000"),
        (["demo", "--challenger", "equal"], "--challenger: invalid choice: 'equal'"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_world_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--world", str(tmp_path)]) == 2
    file = tmp_path / "world.json"
    assert capsys.readouterr().err == (
        f"simulate: {file}: No such file or directory; `python -m deploy.simulate world` writes a world\n"
    )


def test_a_world_is_written_once_and_another_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = str(tmp_path / "shop")
    small = ["--users", "5", "--items", "20", "--new-users", "0", "--new-items", "0"]
    assert main(["world", shop, *small]) == 0
    assert main(["world", shop, *small]) == 0
    capsys.readouterr()
    assert main(["world", shop, *small, "--seed", "2"]) == 2
    assert capsys.readouterr().err == f"simulate: {shop} holds a world with another seed; name a new folder\n"


def test_the_demonstration_needs_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["demo", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"simulate: --folder: {tmp_path} is no empty folder; name a new one\n"


@pytest.mark.process
def test_an_address_without_a_server_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = str(tmp_path / "shop")
    assert main(["world", shop, "--users", "5", "--items", "20", "--new-users", "0", "--new-items", "0"]) == 0
    capsys.readouterr()
    address = f"grpc://127.0.0.1:{free_port()}"
    assert main(["run", "--world", shop, "--address", address, "--wait", "0.2"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"simulate: {address} does not answer: ")
    assert said.count("\n") == 1
