"""Files are read only if reading them ends, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem.contract.whole_files import read_whole, write_whole


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\0b")
    (tmp_path / "link").symlink_to("file")
    assert read_whole(tmp_path / "file") == read_whole(tmp_path / "link") == b"a\0b"


def test_what_is_no_file_is_said_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    for path, reason in (
        (tmp_path / "pipe", "Not a regular file"),
        (Path("/dev/zero"), "Not a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "large", "Larger than 1 MiB"),
    ):
        with pytest.raises(OSError, match=reason) as refused:
            read_whole(path, max_bytes=1 << 20)
        assert refused.value.strerror == reason


def test_a_file_is_written_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.json"
    write_whole(path, "first")
    (tmp_path / "link").symlink_to(path)
    write_whole(tmp_path / "link", "ü")
    assert path.read_bytes() == "ü".encode()
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half\udcff")
    assert path.read_text() == "ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (Path("/dev/full"), "No space left on device"),
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "x", "File exists|Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(OSError, match=reason) as refused:
            write_whole(path, "text")
        assert refused.value.filename == str(path)
    write_whole(Path("/dev/null"), "text")
