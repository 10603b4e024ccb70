"""Locks between processes, held by real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tandem.ops.file_lock import LockHeld, file_lock
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

HOLD = """
import sys, time
from pathlib import Path
from tandem.ops.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_keeps_others_out_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "work.lock"
    waits: list[bool] = []
    with (
        file_lock(path),
        pytest.raises(LockHeld, match=r"work\.lock: another process has held this lock"),
        file_lock(path, wait_seconds=0.2, on_wait=lambda: waits.append(True)),
    ):
        pass
    assert waits == [True]
    assert list(tmp_path.iterdir()) == []
    with file_lock(path, wait_seconds=0.0):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "work.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockHeld), file_lock(path, wait_seconds=0.1):
            pass
        holder.kill()
    wait_until(path.exists, "the file that the killed process left")
    with file_lock(path, wait_seconds=0.1):
        pass
    assert not path.exists()
