"""Logged requests that the serving engine answers anew, and the order in which it would have chosen from.

`python -m inference_server replay-requests BUNDLE --requests FILE --output RESULT` orders each request's pool by one
bundle and policy, and the trainer judges that policy by a log (`trainer.off_policy`). The two programs never import
each other, and the pools must be those that are served.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import ReplayError, StoreValueError
from tandem.contract.store import UserState

_ENCODING: Final = "utf-8"


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    """A request as it was when it was answered."""

    user_id: str
    state: UserState
    """What was known about the user then."""
    context: Mapping[str, str]
    num_items: int
    """Number of items that were shown, at least 1."""


@dataclass(frozen=True, kw_only=True)
class ReplayedOrders:
    """How one bundle and policy order the pools of the requests, in their order."""

    model_version: str
    policy_fingerprint: str
    """Empty: the built-in policy."""
    exploration: float
    """Share of positions that the policy fills at random."""
    item_ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    """(requests + 1,) int64: the pool of request i is items[offsets[i] : offsets[i + 1]]."""
    items: npt.NDArray[np.int64]
    """(pool items,) int64, indices in `item_ids`, best first before exploration. Without exploration, a pool is only
    what is shown."""
    degraded: npt.NDArray[np.bool_]
    """(requests,) bool: the engine left something out, so that this is not what the bundle can do."""


def write_requests(path: Path, requests: Iterable[LoggedRequest]) -> None:
    """Writes one JSON object per line and request; `state` holds the online store's bytes in base64. Raises OSError."""
    with path.open("w", encoding=_ENCODING) as sink:
        for request in requests:
            state = base64.b64encode(request.state.to_bytes()).decode()
            line = {
                "user_id": request.user_id,
                "state": state,
                "context": dict(request.context),
                "num_items": request.num_items,
            }
            sink.write(json.dumps(line) + "\n")


def read_requests(path: Path) -> list[LoggedRequest]:
    """Reads a file that `write_requests` wrote. Raises ReplayError, naming the line that is unreadable, and OSError."""
    requests = []
    with path.open(encoding=_ENCODING) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                raw = json.loads(line)
                state = UserState.from_bytes(base64.b64decode(raw["state"]))
                requests.append(
                    LoggedRequest(
                        user_id=raw["user_id"], state=state, context=raw["context"], num_items=int(raw["num_items"])
                    )
                )
            except (ValueError, KeyError, TypeError, StoreValueError) as error:
                raise ReplayError(f"{path}: line {number} is unreadable: {error}") from error
    return requests


def write_orders(path: Path, orders: ReplayedOrders) -> None:
    """Writes the orders as one file. Raises OSError."""
    described = {
        "model_version": orders.model_version,
        "policy_fingerprint": orders.policy_fingerprint,
        "exploration": orders.exploration,
        "item_ids": list(orders.item_ids),
    }
    text = np.frombuffer(json.dumps(described).encode(_ENCODING), dtype=np.uint8)
    with path.open("wb") as sink:
        np.savez(sink, text=text, offsets=orders.offsets, items=orders.items, degraded=orders.degraded)


def read_orders(path: Path) -> ReplayedOrders:
    """Reads a file that `write_orders` wrote. Raises ReplayError and OSError."""
    try:
        # Opened here: NumPy leaves a file open that is no archive.
        with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            described = json.loads(arrays["text"].tobytes())
            return ReplayedOrders(
                model_version=described["model_version"],
                policy_fingerprint=described["policy_fingerprint"],
                exploration=float(described["exploration"]),
                item_ids=described["item_ids"],
                offsets=arrays["offsets"],
                items=arrays["items"],
                degraded=arrays["degraded"],
            )
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ReplayError(f"{path}: holds no orders: {error}") from error
