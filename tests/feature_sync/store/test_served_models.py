"""Models that servers name in the store are followed for an hour, beside those of the settings."""

from __future__ import annotations

import time

import pytest
import redis

from feature_sync.core.errors import StoreAway
from feature_sync.core.settings import Settings
from feature_sync.store.connection import StoreConnection
from feature_sync.store.served_models import further_models
from tandem.contract.announced import NAMED_SECONDS, served_models_key

pytestmark = pytest.mark.process


def test_names_of_servers_join_those_of_the_settings(store_url: str) -> None:
    settings = Settings(store_url=store_url, model_name="shop", further_models="17,b")
    now = int(time.time())
    with redis.Redis.from_url(store_url) as client, StoreConnection(store_url) as connection:
        assert further_models(settings, connection) == ("17", "b")
        client.zadd(
            served_models_key("shop"),
            {"b": now, "a": now - 60, "23": now + 60, "gone": now - NAMED_SECONDS - 1, "no alias": now, b"\xff": now},
        )
        client.zadd(served_models_key("other"), {"x": now})
        assert further_models(settings, connection) == ("17", "b", "23", "a")
        client.zadd(served_models_key("shop"), {f"many-{number}": now for number in range(1000)})
        assert len(further_models(settings, connection)) <= 34, "whoever writes to the store causes no more work"


def test_a_store_that_is_away_is_an_error_of_the_store() -> None:
    settings = Settings(store_url="redis://127.0.0.1:1/0")
    with StoreConnection(settings.store_url) as connection, pytest.raises(StoreAway):
        further_models(settings, connection)
