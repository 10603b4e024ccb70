"""Disks that are full, read-only, gone or no folder: one line that names the file, nothing half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkerboard import write_checkerboard
from tests.support.small_disk import remount, small_disk
from trainer.commands.cli import main

pytestmark = pytest.mark.process


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return str(write_checkerboard(tmp_path / "source", num_users=400, num_items=80))


@pytest.fixture
def run(dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `prepare` with TANDEM_DATA_DIR; returns its exit status and what it wrote to stderr."""

    def run_prepare(data_dir: Path) -> tuple[int, str]:
        monkeypatch.setenv("TANDEM_DATA_DIR", str(data_dir))
        status = main(["prepare", "--dataset", dataset])
        return status, capsys.readouterr().err

    return run_prepare


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, of which a test takes what it wants."""
    with small_disk(tmp_path / "disk") as folder:
        yield folder


def assert_one_error(status: int, stderr: str, *named: str) -> None:
    assert status == 1
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for text in named:
        assert text in lines[0]


def test_every_size_of_a_full_disk_is_one_line_and_leaves_nothing_half_written(run, mount: Path) -> None:
    ballast = mount / "ballast"
    status = 1
    for free_kib in (8, 96, 160, 224, 320):
        shutil.rmtree(mount / "prepared", ignore_errors=True)
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes((2048 - free_kib) << 10))
        status, stderr = run(mount)
        if status == 0:
            break
        assert_one_error(status, stderr, str(mount), "No space left on device")
        left = mount / "prepared"
        assert not left.is_dir() or list(left.iterdir()) == []
    ballast.unlink()
    assert run(mount)[0] == 0


def test_a_read_only_disk_is_named(run, mount: Path) -> None:
    remount(mount, "ro")
    assert_one_error(*run(mount), str(mount), "Read-only file system")
    remount(mount, "rw")
    assert run(mount)[0] == 0
    remount(mount, "ro")
    assert run(mount)[0] == 0, "what is prepared can be read"


def test_a_file_in_place_of_the_folder_is_named(run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert_one_error(*run(path), str(path), f"TANDEM_DATA_DIR is {path}", "Not a directory")
    assert path.read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(run, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert_one_error(*run(folder), str(folder), "Permission denied")
