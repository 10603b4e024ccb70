"""Process handling of the local stack, with small real child programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.errors import ChildFailed
from deploy.local.processes import Children
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

SLEEP = "import time; time.sleep(600)"


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie does not: it has ended and only waits for its parent, or init, to reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def writes_pid(pid_file: Path, body: str = SLEEP) -> str:
    """A program that writes its process id to a file and then runs `body`."""
    return f"import os, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); {body}"


def read_pid(pid_file: Path) -> int:
    wait_until(lambda: pid_file.is_file() and pid_file.read_text() != "", f"{pid_file.name} is written")
    return int(pid_file.read_text())


async def test_a_step_returns_its_stdout_and_shows_its_stderr(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    program = "import sys; print('first'); print('last'); print('progress', file=sys.stderr)"
    async with Children(tmp_path, grace_seconds=5) as children:
        assert await children.run("step", python(program), os.environ) == "first\nlast\n"
    assert b"progress" in capfdbinary.readouterr().err
    assert (tmp_path / "step.log").read_bytes().count(b"\n") == 3


async def test_a_failing_step_raises_with_its_name_status_and_last_lines(tmp_path: Path) -> None:
    program = "import sys; [print('line', n, file=sys.stderr) for n in range(100)]; print('50%\\r100%'); sys.exit(3)"
    async with Children(tmp_path, grace_seconds=5) as children:
        with pytest.raises(ChildFailed) as failure:
            await children.run("train", python(program), os.environ)
    message = str(failure.value)
    assert "train ended with status 3" in message
    assert "line 99" in message
    assert "line 10\n" not in message
    assert "50%" not in message


async def test_services_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    program = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    with open({str(order)!r}, 'a') as sink: sink.write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "time.sleep(600)\n"
    )
    async with Children(tmp_path / "logs", grace_seconds=30) as children:
        for name in "abc":
            ready = tmp_path / f"ready-{name}"
            await children.start(name, python(program, name, str(ready)), os.environ)
            await asyncio.to_thread(wait_until, ready.exists, f"{name} is ready")
    assert order.read_text() == "cba"


async def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    grandchild_pid = tmp_path / "grandchild"
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"subprocess.Popen([sys.executable, '-c', {writes_pid(grandchild_pid)!r}]); time.sleep(600)"
    )
    async with Children(tmp_path / "logs", grace_seconds=0.2) as children:
        child = await children.start("stubborn", python(stubborn), os.environ)
        grandchild = await asyncio.to_thread(read_pid, grandchild_pid)
    assert child.process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(grandchild), "the grandchild is gone")


async def test_a_service_that_ends_by_itself_is_reported_even_with_status_0(tmp_path: Path) -> None:
    async with Children(tmp_path, grace_seconds=5) as children:
        await children.start("store", python("print('goodbye')"), os.environ)
        with pytest.raises(ChildFailed, match=r"(?s)store ended with status 0.*goodbye"):
            await asyncio.wait_for(children.failure(), 30)


async def test_a_cancelled_step_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    async with Children(tmp_path / "logs", grace_seconds=5) as children:
        step = asyncio.create_task(children.run("train", python(writes_pid(pid_file)), os.environ))
        pid = await asyncio.to_thread(read_pid, pid_file)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
    assert not is_running(pid)


class TestSupervise:
    """`supervise` in a separate process, which gets signals as from a terminal or an init system."""

    PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from deploy.local.errors import ChildFailed
from deploy.local.stack import supervise

folder = Path(sys.argv[1])

def child(name, body):
    write = f"import os, pathlib; pathlib.Path({str(folder / name)!r}).write_text(str(os.getpid())); "
    return [sys.executable, "-c", write + body]

async def work(children):
    await children.start("service", child("service", sys.argv[2]), os.environ)
    await children.run("step", child("step", sys.argv[3]), os.environ)

try:
    print("finished" if asyncio.run(supervise(folder / "logs", work)) else "told to stop")
except ChildFailed as error:
    print(error)
"""

    def start(self, folder: Path, service: str, step: str) -> subprocess.Popen[str]:
        return subprocess.Popen(python(self.PROGRAM, str(folder), service, step), stdout=subprocess.PIPE, text=True)

    def end(self, stack: subprocess.Popen[str], folder: Path) -> str:
        output, _ = stack.communicate(timeout=60)
        for name in ("service", "step"):
            pid = read_pid(folder / name)
            wait_until(lambda pid=pid: not is_running(pid), f"{name} is gone")
        return output

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_in_the_middle_of_a_step_stops_everything(self, tmp_path: Path, number: signal.Signals) -> None:
        stack = self.start(tmp_path, SLEEP, SLEEP)
        read_pid(tmp_path / "service")
        read_pid(tmp_path / "step")
        stack.send_signal(number)
        assert self.end(stack, tmp_path) == "told to stop\n"
        assert stack.returncode == 0

    def test_work_that_ends_stops_the_services(self, tmp_path: Path) -> None:
        assert self.end(self.start(tmp_path, SLEEP, "pass"), tmp_path) == "finished\n"

    def test_a_failing_step_stops_the_services(self, tmp_path: Path) -> None:
        assert "step ended with status 7" in self.end(self.start(tmp_path, SLEEP, "raise SystemExit(7)"), tmp_path)

    def test_a_dying_service_stops_the_step(self, tmp_path: Path) -> None:
        stack = self.start(tmp_path, SLEEP, SLEEP)
        service = read_pid(tmp_path / "service")
        read_pid(tmp_path / "step")
        os.kill(service, signal.SIGKILL)
        assert "service was ended by SIGKILL" in self.end(stack, tmp_path)

    @pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
    def test_no_child_outlives_a_stack_that_was_killed(self, tmp_path: Path) -> None:
        stack = self.start(tmp_path, SLEEP, SLEEP)
        read_pid(tmp_path / "service")
        read_pid(tmp_path / "step")
        stack.kill()
        self.end(stack, tmp_path)
