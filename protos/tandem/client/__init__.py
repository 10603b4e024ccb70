"""The Python client: `TandemClient` for threads, `AsyncTandemClient` for asyncio, with the same calls and one policy.

    with TandemClient("grpc://localhost:50051") as client:
        for item in client.recommend("196", num_items=5).items:
            print(item.item_id, item.score)

Depends on grpc and protobuf only (the extra `client`), so that it fits into any service. `core` builds the calls,
`attempts` handles deadline, retries and hedging, `errors` defines the exceptions.
"""

from tandem.client.async_client import AsyncTandemClient
from tandem.client.attempts import RetryPolicy
from tandem.client.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    Failure,
    InvalidArgument,
    InvalidRequest,
    NotFound,
    OverCapacity,
    PageExpired,
    ServerError,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.client.query import AttributePredicate, Filter, Query
from tandem.client.results import (
    Assignment,
    Canary,
    ExperimentTable,
    LiveCatalogue,
    Reason,
    Recommendations,
    RecommendedItem,
    RefusedBundle,
    ServedModel,
    ServingStatus,
    SimilarItems,
    Source,
)
from tandem.client.sync_client import TandemClient
from tandem.client.writes import Event, EventType, Item

__all__ = [
    "Assignment",
    "AsyncTandemClient",
    "AttributePredicate",
    "Canary",
    "Cancelled",
    "ClientClosed",
    "DeadlineExceeded",
    "Event",
    "EventType",
    "ExperimentTable",
    "Failure",
    "Filter",
    "InvalidArgument",
    "InvalidRequest",
    "Item",
    "LiveCatalogue",
    "NotFound",
    "OverCapacity",
    "PageExpired",
    "Query",
    "Reason",
    "Recommendations",
    "RecommendedItem",
    "RefusedBundle",
    "RetryPolicy",
    "ServedModel",
    "ServerError",
    "ServingStatus",
    "SimilarItems",
    "Source",
    "TandemClient",
    "TandemError",
    "Unauthenticated",
    "Unavailable",
]
