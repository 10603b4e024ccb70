"""What a stranger can send to the HTTP port, and what it does to the worker: memory, and answers to others meanwhile.

The tests run every attack at 16 MB. `python -m tests.inference_server.api.http.attacks` runs them at full size, with
keys and TLS on and off, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.certificates import Authority
from tests.support.serving import serve
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

_GIVE_UP_SECONDS: Final = 60.0
_PIECE: Final = 1 << 16
_HEAD: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
_POST: Final = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_WHOLE: Final = _HEAD + b"\r\n"
_PROBE: Final = _HEAD + b"Connection: close\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A worker's HTTP port."""

    port: int
    pid: int
    tls: ssl.SSLContext | None = None

    def connect(self) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=_GIVE_UP_SECONDS)
        return raw if self.tls is None else self.tls.wrap_socket(raw, server_hostname="127.0.0.1")

    def rss_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One thing to send: a head, then pieces until `megabytes` are sent or the server refuses."""

    name: str
    start: bytes
    piece: bytes = b""
    connections: int = 1
    reads: bool = False
    """Whether answers are read while sending."""
    statuses: frozenset[int] = frozenset()
    """Statuses of the answer; empty: the connection may be closed without one, or stay open."""
    max_megabytes: float = math.inf
    """Size at which each connection stops, however much the run would send."""


def _attacks() -> tuple[Attack, ...]:
    tiny = b"a:\r\n" * (_PIECE // 4)
    blanks = b"a" * _PIECE
    chunked = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
    pipelined = _WHOLE * (_PIECE // len(_WHOLE))
    extension = b"2;" + b"a" * (_PIECE - 6) + b"\r\n{}"
    return (
        Attack(name="tiny header lines", start=_HEAD, piece=tiny, statuses=frozenset({431})),
        Attack(
            name="tiny header lines, 8 connections", start=_HEAD, piece=tiny, connections=8, statuses=frozenset({431})
        ),
        Attack(name="one header value", start=_HEAD + b"x: ", piece=blanks, statuses=frozenset({431})),
        Attack(name="one header name", start=_HEAD, piece=blanks, statuses=frozenset({400, 431})),
        Attack(name="blanks before a value", start=_HEAD + b"x:", piece=b" " * _PIECE, statuses=frozenset({431})),
        Attack(
            name="folded header lines",
            start=_HEAD + b"x: a\r\n",
            piece=b" a\r\n" * (_PIECE // 4),
            statuses=frozenset({400, 431}),
        ),
        Attack(name="URL", start=b"GET /", piece=blanks, statuses=frozenset({414})),
        Attack(name="method", start=b"", piece=b"G" * _PIECE, statuses=frozenset({400})),
        Attack(name="line ends", start=b"", piece=b"\r\n" * (_PIECE // 2)),
        Attack(name="trailers", start=chunked + b"2\r\n{}\r\n0\r\n", piece=tiny, statuses=frozenset({431})),
        Attack(name="one trailer", start=chunked + b"2\r\n{}\r\n0\r\nx: ", piece=blanks, statuses=frozenset({431})),
        Attack(
            name="trailers to a path without body",
            start=chunked.replace(b"/v1/recommend", b"/healthz") + b"0\r\n",
            piece=tiny,
        ),
        Attack(name="one chunk extension", start=chunked + b"2;x=", piece=blanks, statuses=frozenset({401, 431})),
        Attack(name="chunk extensions", start=chunked, piece=extension, statuses=frozenset({401, 431})),
        Attack(
            name="chunk of 2^60",
            start=chunked + b"1000000000000000\r\n",
            piece=b" " * _PIECE,
            statuses=frozenset({401, 413}),
        ),
        Attack(
            name="body of 2^60",
            start=_POST + b"Content-Length: 1152921504606846976\r\n\r\n",
            piece=b" " * _PIECE,
            statuses=frozenset({401, 413}),
        ),
        Attack(
            name="body to a path without one",
            start=b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
            piece=blanks,
            statuses=frozenset({404}),
        ),
        Attack(name="pipeline, read", start=b"", piece=pipelined, reads=True, statuses=frozenset({200})),
        Attack(name="pipeline, not read", start=b"", piece=pipelined),
        Attack(name="pipeline, not read, 50 connections", start=b"", piece=pipelined, connections=50),
        Attack(
            name="bodies behind a slow request, 50 connections",
            start=_WHOLE * 40,
            piece=_POST + b"Content-Length: 900000\r\n\r\n" + b" " * 900_000,
            connections=50,
        ),
        Attack(
            name="bodies of 900 kB that do not end, 200 connections",
            start=_POST + b"Content-Length: 1000000\r\n\r\n",
            piece=b" " * 900_000,
            max_megabytes=0.9,
            connections=200,
        ),
        Attack(name="idle connections", start=b"", connections=1500),
        Attack(name="slow heads", start=_HEAD + b"a: " + b"b" * 16_000, connections=1500),
    )


ATTACKS: Final = _attacks()


@dataclass(kw_only=True)
class Outcome:
    """What an attack did."""

    grown_mb: float = 0.0
    """Peak of the worker's memory, less what it was before."""
    kept_mb: float = 0.0
    """Memory after the attack, less what it was before."""
    probe_seconds: list[float] = field(default_factory=list)
    """Time of every /healthz asked meanwhile, each on a new connection."""
    failed_probes: int = 0
    sent_mb: float = 0.0
    statuses: set[int] = field(default_factory=set)
    """Statuses that attackers read."""


def run(attack: Attack, target: Target, *, megabytes: float, hold_seconds: float = 0.5) -> Outcome:
    """Runs one attack, and holds its connections open for a while before it closes them."""
    outcome = Outcome()
    before = target.rss_mb()
    done = threading.Event()
    watching = [threading.Thread(target=watch, args=(target, outcome, before, done)) for watch in (_probe, _watch)]
    for thread in watching:
        thread.start()
    try:
        with contextlib.ExitStack() as stack:
            attackers = [_Attacker(attack, target, outcome, stack) for _ in range(attack.connections)]
            if attack.connections <= 50:
                threads = [threading.Thread(target=attacker.send, args=(megabytes,)) for attacker in attackers]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            else:
                for attacker in attackers:
                    attacker.send(megabytes)
            time.sleep(hold_seconds)
            for attacker in attackers:
                attacker.read_status()
        time.sleep(0.3)
        outcome.kept_mb = target.rss_mb() - before
    finally:
        done.set()
        for thread in watching:
            thread.join()
    return outcome


class _Attacker:
    """One connection of an attack."""

    def __init__(self, attack: Attack, target: Target, outcome: Outcome, stack: contextlib.ExitStack) -> None:
        self._attack = attack
        self._outcome = outcome
        self._received = bytearray()
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):  # no more room for us
            self._socket = stack.enter_context(target.connect())

    def send(self, megabytes: float) -> None:
        if self._socket is None:
            return
        attack, sent = self._attack, 0
        # A server that holds us back, and one that goes, end the sending alike.
        self._socket.settimeout(1.0 if attack.connections <= 50 else 0.2)
        with contextlib.suppress(OSError), self._reading():
            self._socket.sendall(attack.start)
            while attack.piece and sent < min(megabytes, attack.max_megabytes) * 1e6:
                self._socket.sendall(attack.piece)
                sent += len(attack.piece)
        self._outcome.sent_mb += sent / 1e6

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        if not self._attack.reads:
            yield
            return
        reading = threading.Thread(target=self._read_all)
        reading.start()
        try:
            yield
        finally:
            assert self._socket is not None
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            reading.join()

    def _read_all(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_PIECE):
                self._received += data[:64]

    def read_status(self) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.settimeout(0.05)
            self._received += self._socket.recv(_PIECE)
        for line in bytes(self._received).split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                self._outcome.statuses.add(int(line.split()[1]))


def _probe(target: Target, outcome: Outcome, before: float, done: threading.Event) -> None:
    while not done.is_set():
        started = time.monotonic()
        try:
            with target.connect() as connection:
                connection.sendall(_PROBE)
                answered = connection.recv(12) == b"HTTP/1.1 200"
        except OSError:
            answered = False
        if answered:
            outcome.probe_seconds.append(time.monotonic() - started)
        else:
            outcome.failed_probes += 1
        done.wait(0.02)


def _watch(target: Target, outcome: Outcome, before: float, done: threading.Event) -> None:
    while not done.wait(0.005):
        outcome.grown_mb = max(outcome.grown_mb, target.rss_mb() - before)


async def _all_at_full_size(*, protected: bool, megabytes: float) -> None:
    """Runs every attack on a server of its own, and prints one line for each; `protected`: with TLS and keys."""
    with tempfile.TemporaryDirectory(prefix="tandem-attacks-") as name:
        folder = Path(name)
        settings: dict[str, object] = {"bundle_path": build_tiny_bundle(folder / "bundle", TinySpec()).directory}
        tls = None
        if protected:
            authority = Authority()
            certificate, key = authority.issue().write(folder)
            tls = ssl.create_default_context(cadata=authority.certificate.decode())
            keys = folder / "keys"
            keys.write_text("somebody:" + "0" * 64 + "\n")
            settings |= {"tls_certificate": certificate, "tls_key": key, "api_keys_file": keys}
        print(f"{'TLS and keys' if protected else 'plaintext, no keys'}, {megabytes:g} MB")
        print("attack, peak MB, kept MB, sent MB, probes answered, probes failed, slowest ms, statuses")
        async with serve(folder / "data", until_serving=not protected, **settings) as server:
            target = Target(port=server.http_port, pid=await server.worker_pid(1), tls=tls)
            await server.log("model_serving")
            for attack in ATTACKS:
                outcome = await asyncio.to_thread(run, attack, target, megabytes=megabytes, hold_seconds=1.0)
                slowest = max(outcome.probe_seconds, default=float("nan"))
                print(
                    f"{attack.name:55} {outcome.grown_mb:8.1f} {outcome.kept_mb:8.1f} {outcome.sent_mb:8.1f} "
                    f"{len(outcome.probe_seconds):7} {outcome.failed_probes:6} {slowest * 1e3:10.0f}  "
                    f"{sorted(outcome.statuses)}",
                    flush=True,
                )


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description="Attack the HTTP port of a server of its own.")
    parser.add_argument("--megabytes", type=float, default=64.0)
    arguments = parser.parse_args()
    for protected in (False, True):
        asyncio.run(_all_at_full_size(protected=protected, megabytes=arguments.megabytes))


if __name__ == "__main__":
    main()
