"""Cost of filters: one request in flight; all kinds of filter take turns, so drift of the machine affects all alike.

The client is Python and sends messages serialised in advance. The medians include its own time, which is the same for
all kinds except for the time to send a longer message.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.environment.bench import DEADLINE_MS, Bench, say
from benchmarks.load.h2load import quantiles_ms
from benchmarks.synthetic.catalogues import BuiltCatalogue
from benchmarks.synthetic.columns import BRAND, PRICE
from tandem.v1 import recommendation_pb2 as pb

NUM_EXCLUDED: Final = 10_000

_SIZES: Final = ("100k", "1m")
_REPEATS: Final = 300
_FRESH_LISTS: Final = 100
_UNFILTERED: Final = "unfiltered"
_PATH: Final = "/tandem.v1.RecommendationService/Recommend"


async def filters(bench: Bench) -> dict[str, Any]:
    """Measures two sizes of catalogue, one after the other."""
    return {size: await _measure(bench, size) for size in (_SIZES[:1] if bench.quick else _SIZES)}


async def _measure(bench: Bench, size: str) -> dict[str, Any]:
    catalogue = await bench.catalogue(size)
    kinds = {
        name: cycle([_with_filter(request, chosen).SerializeToString() for request, chosen in pairs])
        for name, pairs in _kinds(bench, catalogue).items()
    }
    repeats = 20 if bench.quick else _REPEATS
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    failures: dict[str, dict[str, int]] = {name: {} for name in kinds}
    short: dict[str, int] = dict.fromkeys(kinds, 0)
    degraded: dict[str, int] = dict.fromkeys(kinds, 0)
    async with (
        bench.tandem(catalogue) as tandem,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{tandem.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel,
    ):
        call = channel.unary_unary(_PATH)
        for repeat in range(repeats + repeats // 10):
            for name, bodies in kinds.items():
                body = next(bodies)
                started = time.perf_counter()
                try:
                    reply = await call(body, timeout=5.0)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                    failures[name][code] = failures[name].get(code, 0) + 1
                    continue
                elapsed = time.perf_counter() - started
                if repeat >= repeats // 10:  # the first tenth is warm-up
                    answer = pb.RecommendResponse.FromString(reply)
                    seconds[name].append(elapsed)
                    short[name] += len(answer.items) < 10
                    degraded[name] += bool(answer.degraded_reasons)
    unfiltered = statistics.median(seconds[_UNFILTERED])
    rows = {}
    for name, own in seconds.items():
        ratio = round(statistics.median(own) / unfiltered, 3) if own else None
        rows[name] = {
            **quantiles_ms(np.array(own)),
            "ratio_to_unfiltered": ratio,
            "failures": failures[name],
            "answers_short_of_items": short[name],
            "degraded": degraded[name],
        }
    say(f"  {size}: " + ", ".join(f"{name} {row['p50']} ms" for name, row in rows.items()))
    return {"deadline_ms": DEADLINE_MS, "num_items": catalogue.spec.num_items, "kinds": rows}


def _kinds(
    bench: Bench, catalogue: BuiltCatalogue
) -> Mapping[str, Sequence[tuple[pb.RecommendRequest, pb.RecommendFilter]]]:
    """Kind of filter -> requests with their filters. A fresh list differs from request to request."""
    rng = np.random.default_rng(0)
    num_items = catalogue.spec.num_items
    count = min(NUM_EXCLUDED, num_items // 2)
    users = [request for request in bench.requests(catalogue) if request.user_id]
    fresh = 5 if bench.quick else _FRESH_LISTS

    def excluding() -> pb.RecommendFilter:
        rows = rng.choice(num_items, size=count, replace=False)
        return pb.RecommendFilter(exclude_item_ids=[f"item-{row}" for row in rows])

    def attribute(**fields: Any) -> pb.RecommendFilter:
        return pb.RecommendFilter(attributes=[pb.AttributePredicate(**fields)])

    same = excluding()
    user = users[1]
    return {
        _UNFILTERED: [(user, pb.RecommendFilter())],
        f"exclude {count:,} ids, fresh list each time": [(user, excluding()) for _ in range(fresh)],
        f"exclude {count:,} ids, one list repeated": [(user, same)],
        "one category of 40": [(user, pb.RecommendFilter(include_categories=["category-1"]))],
        "brand, a text": [(user, attribute(name=BRAND, any_of=["brand-1", "brand-2"]))],
        "price, a number": [(user, attribute(name=PRICE, max=15.0))],
        "brand of one item in a thousand": [(user, attribute(name=BRAND, any_of=["brand-150"]))],
    }


def _with_filter(request: pb.RecommendRequest, chosen: pb.RecommendFilter) -> pb.RecommendRequest:
    return pb.RecommendRequest(user_id=request.user_id, num_items=request.num_items, filter=chosen)
