"""What servers say of themselves in the online store, for feature_sync, which follows it.

| key                                   | value                                                               |
| ------------------------------------- | ------------------------------------------------------------------- |
| `tandem/1/served-models/{model_name}` | sorted set: alias or version number -> when a server last named it, |
|                                       | in seconds since 1970                                               |
| `tandem/1/experiment-shares`          | hash: experiment -> JSON of the weights of its arms                 |

Served models are those that a server answers with beside its own: of its settings, and of the arms of experiments. Many
servers write the same keys; a name that none has written for NAMED_SECONDS is served no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from tandem.contract.store import KEY_PREFIX

NAMED_SECONDS: Final = 3600
"""How long a name is valid: servers repeat theirs every minute, and one that restarts must not be forgotten."""
KEPT_SECONDS: Final = 365 * 24 * 3600
"""How long the keys stay after the last server wrote them: experiments are reported on after their end."""


def served_models_key(model_name: str) -> bytes:
    """Key of the names of a registered model's versions that servers answer with beside their own."""
    return KEY_PREFIX + b"served-models/" + model_name.encode()


def experiment_shares_key() -> bytes:
    """Key of the weights of the arms of all experiments."""
    return KEY_PREFIX + b"experiment-shares"


def shares_to_bytes(shares: Mapping[str, int]) -> bytes:
    """The weights of one experiment's arms, packed."""
    return json.dumps(dict(sorted(shares.items())), ensure_ascii=False, separators=(",", ":")).encode()


def shares_from_bytes(packed: bytes) -> dict[str, float] | None:
    """The weights of one experiment's arms; None for bytes that hold none."""
    try:
        shares = json.loads(packed)
    except ValueError:
        return None
    if not isinstance(shares, dict) or not all(isinstance(weight, int) and weight > 0 for weight in shares.values()):
        return None
    return {arm: float(weight) for arm, weight in shares.items()}
