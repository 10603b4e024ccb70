"""What servers say of themselves in the store: the models that they answer with beside their own, and arms' shares."""

from __future__ import annotations

import time
from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.store.connection import StoreConnection
from tandem.contract.announced import NAMED_SECONDS, experiment_shares_key, served_models_key, shares_from_bytes
from tandem.ops.settings_types import check_served_name, split_names

_MAX_NAMES: Final = 32
"""Each costs a download, and a pass over the users: whoever may write to the store must not cause more."""


def further_models(settings: Settings, connection: StoreConnection) -> tuple[str, ...]:
    """Aliases and version numbers of these models, those of the settings first. A server's models are served for an
    hour after it has named them last. Raises StoreError."""
    since = int(time.time()) - NAMED_SECONDS
    key = served_models_key(settings.model_name)
    named = connection.call("ZREVRANGEBYSCORE", key, "+inf", since, "LIMIT", 0, _MAX_NAMES)
    by_servers = sorted(name for member in named if _is_name(name := member.decode(errors="replace")))
    return tuple(dict.fromkeys((*split_names(settings.further_models), *by_servers)))


def experiment_shares(connection: StoreConnection) -> dict[str, dict[str, float]]:
    """The shares of arms that servers have named, by experiment, also of experiments that are over. Raises
    StoreError."""
    reply = connection.call("HGETALL", experiment_shares_key())
    named = zip(reply[::2], reply[1::2], strict=True)
    found = ((name.decode(errors="replace"), shares_from_bytes(packed)) for name, packed in named)
    return {name: shares for name, shares in found if shares}


def _is_name(name: str) -> bool:
    try:
        check_served_name(name)
    except ValueError:
        return False
    return True
