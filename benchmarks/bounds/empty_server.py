"""The upper bound: a grpc.aio server whose handler only returns bytes made in advance.

`python -m benchmarks.bounds.empty_server RESPONSE_FILE` prints its port and serves until SIGTERM. It uses the inference
server's event loop and does not parse requests.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import grpc
import uvloop

from tandem.v1 import recommendation_pb2 as pb

METHOD = pb.DESCRIPTOR.services_by_name["RecommendationService"].methods_by_name["Recommend"]


async def _serve(response: bytes) -> None:
    async def recommend(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return response

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(recommend)  # no serialisers: bytes in, bytes out
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(METHOD.containing_service.full_name, {METHOD.name: handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(grace=1.0)


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]).read_bytes()))
