"""RecommendBatch: one stream of requests, answered in the order in which the answers are ready. A bounded number of
requests is answered concurrently; at that limit the stream is not read, and HTTP/2's flow control holds the caller
back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

from inference_server.api.grpc.decoding import Decoder
from inference_server.api.grpc.status_of_errors import STATUS_OF
from inference_server.api.internal_error import internal_error
from inference_server.api.wire import to_query, to_response
from inference_server.core.errors import InvalidRequest, RequestError
from inference_server.request.recommender import Recommender
from tandem.contract.store import MAX_ID_BYTES
from tandem.v1 import recommendation_pb2 as pb

METHOD: Final = "tandem.v1.RecommendationService/RecommendBatch"
IN_FLIGHT: Final = 64
"""Entries of one stream that are answered concurrently: the size of a full micro-batch."""
INTERNAL: Final = 13  # google.rpc.Code.INTERNAL


async def recommend_batch(
    entries: AsyncIterable[bytes], recommender: Recommender, decoder: Decoder
) -> AsyncGenerator[pb.RecommendBatchResponse, None]:
    """Yields answers in the order in which they are ready. Ends when the caller's side has ended and all entries are
    answered.

    `entries` are RecommendBatchRequests as they came; one that cannot be decoded is answered by an error that names
    its place in the stream, because its correlation_id cannot be read either.
    """
    answers: asyncio.Queue[pb.RecommendBatchResponse | None] = asyncio.Queue()
    room = asyncio.Semaphore(IN_FLIGHT)

    async def answer_one(index: int, entry: bytes) -> None:
        try:
            request = decoder.decode(METHOD, pb.RecommendBatchRequest.FromString, entry)
        except InvalidRequest as error:
            response = pb.RecommendBatchResponse()
            set_error(response, InvalidRequest(f"{error.field}[{index}]", error.description))
            answers.put_nowait(response)
        else:
            answers.put_nowait(await _answer(request, recommender))

    async def read() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                index = 0
                async for entry in entries:
                    await room.acquire()
                    group.create_task(answer_one(index, entry))
                    index += 1
        finally:
            answers.put_nowait(None)

    reading = asyncio.create_task(read(), name="bulk")
    try:
        while (response := await answers.get()) is not None:
            yield response
            # Released only after the caller has taken the answer: a caller that does not read answers is held back too.
            room.release()
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _answer(request: pb.RecommendBatchRequest, recommender: Recommender) -> pb.RecommendBatchResponse:
    response = pb.RecommendBatchResponse(correlation_id=request.correlation_id)
    try:
        if len(request.correlation_id.encode()) > MAX_ID_BYTES:
            raise InvalidRequest("correlation_id", f"must have at most {MAX_ID_BYTES} bytes of UTF-8")
        response.response.CopyFrom(to_response(await recommender.recommend_bulk(to_query(request.request))))
    except RequestError as error:
        set_error(response, error)
    except Exception:  # a bug of ours: the log gets the details, the caller only an id
        response.error.code = INTERNAL
        response.error.message = internal_error(user_id=request.request.user_id).message
    return response


def set_error(response: pb.RecommendBatchResponse, error: RequestError) -> None:
    """Makes the error the outcome of an entry."""
    response.error.code, _ = STATUS_OF[type(error)].value
    response.error.message = str(error)
    if isinstance(error, InvalidRequest):
        response.error.field = error.field
