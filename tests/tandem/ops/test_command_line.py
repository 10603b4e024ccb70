"""How a command ends: one line, an exit status, no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.ops.command_line import Errors, exit_status


class Wrong(Exception):
    """A wrong argument."""


class Failed(Exception):
    """A failure."""


ERRORS = Errors(prefix="shop", usage=(Wrong,), failed=(Failed,))


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Wrong("--days: must be a number"), 2, "shop: --days: must be a number\n"),
        (Failed("redis://u:pa55word@h:1/0 does not answer"), 1, "shop: redis://h:1/0 does not answer\n"),
        (Failed("the server said \x1b[31mno\x07\udcff"), 1, r"shop: the server said \x1b[31mno\x07\udcff" "\n"),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError("Unable to allocate 1 TiB"), 1, "shop: not enough memory: Unable to allocate 1 TiB\n"),
        (MemoryError(), 1, "shop: not enough memory\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"),
            1,
            "shop: /a: No such file or directory\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "shop: Broken pipe\n"),
    ],
)
def test_what_stops_a_command_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(error), ERRORS) == status
    assert capsys.readouterr().err == line


def test_a_bug_is_one_line_that_says_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_status(raising(KeyError("a\nb")), ERRORS) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"shop: unexpected KeyError: 'a\\nb' ({__file__}, line ")
    assert line.endswith("); TANDEM_LOG_LEVEL=debug shows more")
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "debug")
    assert exit_status(raising(KeyError("redis://u:pa55word@h/0")), ERRORS) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert "pa55word" not in printed


def test_the_status_of_the_command_is_kept() -> None:
    assert exit_status(lambda: 4, ERRORS) == 4
    with pytest.raises(SystemExit):
        exit_status(raising(SystemExit(2)), ERRORS)


PROGRAM = """
    import sys
    from tandem.ops.process_start import start_process
    start_process()
    from tandem.ops.command_line import Errors, exit_status

    def run():
        {body}
        return 0

    sys.exit(exit_status(run, Errors(prefix="shop", usage=(), failed=())))
"""


def in_a_shell(folder: Path, body: str, redirected: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of one line in a shell, whose exit status is that of the program."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(body=body))
    command = f"set -o pipefail; {sys.executable} {script} {redirected}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("body", "redirected", "status", "line"),
    [
        ("print('line\\n' * 100_000)", "| head -1", 141, ""),
        ("print('line')", "| sleep 0", 141, ""),
        ("print('line')", "> /dev/full", 1, "shop: standard output: No space left on device\n"),
        ("print('line')", ">&-", 0, ""),
        ("print(open('/dev/null', 'w').fileno() > 2, sys.stdin.read(), file=sys.stderr)", "<&- >&-", 0, "True \n"),
        ("print('ist es \\udcff?')", "", 0, ""),
        ("raise ValueError('a')", "2>&-", 1, ""),
        ("raise ValueError('a')", "2> /dev/full", 1, ""),
    ],
)
def test_streams_that_cannot_be_used(tmp_path: Path, body: str, redirected: str, status: int, line: str) -> None:
    if "sleep" in redirected:
        body = f"import time; time.sleep(0.5); {body}"
    ended = in_a_shell(tmp_path, body, redirected)
    assert (ended.returncode, ended.stderr) == (status, line)


@pytest.mark.process
def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    body = f"file = open('{tmp_path}/data', 'w'); import os; os.write(1, b'noise'); file.write('data')"
    assert in_a_shell(tmp_path, body, ">&-").returncode == 0
    assert (tmp_path / "data").read_text() == "data"


@pytest.mark.process
def test_ctrl_c_ends_a_program_without_a_word(tmp_path: Path) -> None:
    body = "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)"
    ended = in_a_shell(tmp_path, body, "")
    assert (ended.returncode, ended.stderr) == (130, "")
