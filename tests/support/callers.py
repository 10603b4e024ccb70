"""Callers that never pause for long: raw gRPC connections, clients and HTTP keep-alive connections, in threads.

They run in a process of their own (`python -m tests.support.callers GRPC_PORT HTTP_PORT [CA_FILE]`; with an authority's
certificate over TLS), so that a server's shutdown does not compete with them for one interpreter, until the standard
input is closed. The process prints a line once each kind of caller has had an answer, and one of JSON at the end: how
often each kind of call ended in which way.

A caller that nobody listens to any more has lost no call: it counts as `nobody` and waits for the next server.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc

from tandem.client import TandemClient, TandemError
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_PAUSE_SECONDS = 0.005
_NOBODY_SECONDS = 0.05


class Callers:
    """The threads of all callers."""

    def __init__(
        self,
        *,
        grpc_port: int,
        http_port: int,
        authority: Path | None,
        num_raw: int,
        num_clients: int,
        num_http: int,
    ) -> None:
        """`authority` is the certificate by which callers check the server's; None: plaintext."""
        self.ended: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._grpc, self._http, self._authority = f"127.0.0.1:{grpc_port}", http_port, authority
        kinds = [(self._raw, num_raw), (self._client, num_clients), (self._keep_alive, num_http)]
        self._threads = [threading.Thread(target=kind) for kind, number in kinds for _ in range(number)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, kind: str, call: Callable[[], str]) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            outcome = call()
            self.ended[f"{kind} {outcome}"] += 1
            if outcome == "nobody":
                time.sleep(_NOBODY_SECONDS)

    def _raw(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self._authority is None:
            opened = grpc.insecure_channel(self._grpc, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(self._authority.read_bytes())
            opened = grpc.secure_channel(self._grpc, credentials, options=options)
        with opened as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)

            def call() -> str:
                try:
                    stub.Recommend(pb.RecommendRequest(user_id="u"), timeout=10)
                except grpc.RpcError as error:
                    failed = f"{error.code().name}: {error.details()}"
                    return "nobody" if "failed to connect" in failed.lower() else failed
                return "ok"

            self._repeat("raw", call)

    def _client(self) -> None:
        scheme = "grpc" if self._authority is None else "grpcs"
        with TandemClient(f"{scheme}://{self._grpc}", deadline_ms=10_000, root_certificates=self._authority) as client:

            def call() -> str:
                try:
                    client.recommend("u")
                except TandemError as error:
                    failed = f"{type(error).__name__}: {error}"
                    return "nobody" if "failed to connect" in failed.lower() else failed
                return "ok"

            self._repeat("client", call)

    def _keep_alive(self) -> None:
        if self._authority is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._http, timeout=10)
        else:
            trust = ssl.create_default_context(cafile=self._authority)
            connection = http.client.HTTPSConnection("127.0.0.1", self._http, timeout=10, context=trust)

        def call() -> str:
            try:
                connection.request("POST", "/v1/recommend", b"{}", {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
            except ConnectionRefusedError:
                connection.close()
                return "nobody"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                return repr(error)
            return "ok" if response.status == 200 else str(response.status)

        self._repeat("http", call)
        connection.close()


def main() -> None:
    grpc_port, http_port = map(int, sys.argv[1:3])
    authority = Path(sys.argv[3]) if sys.argv[3:] else None
    callers = Callers(
        grpc_port=grpc_port, http_port=http_port, authority=authority, num_raw=16, num_clients=8, num_http=8
    )
    callers.start()
    while not all(callers.ended[f"{kind} ok"] for kind in ("raw", "client", "http")):
        time.sleep(_PAUSE_SECONDS)
    print("calling", flush=True)
    sys.stdin.read()
    callers.stop()
    print(json.dumps(callers.ended))


if __name__ == "__main__":
    main()
