"""What a server tells feature_sync over the store: nothing without experiments, and again after the store was away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from inference_server.experiments.experiments_file import ExperimentsFile
from inference_server.supervisor.announcements import Announcements
from tandem.contract.announced import KEPT_SECONDS, experiment_shares_key, served_models_key, shares_from_bytes
from tests.support.serving import Valkey, wait_until

pytestmark = pytest.mark.process

LAYERS = """
features:
  - name: homepage
    strategies:
      - parameters: {rollout: 10}
        variants:
          - {name: control, weight: 800, payload: {type: json, value: {experiment: ranker}}}
          - {name: b, weight: 200, payload: {type: json, value: {experiment: ranker, model: challenger}}}
"""


async def test_a_store_that_was_away_is_told_later(tmp_path: Path) -> None:
    store = Valkey(tmp_path / "store")
    models: set[str] = set()
    announcements = Announcements(store.url, model_name="shop", models=lambda: models)
    path = tmp_path / "experiments.yaml"
    path.write_text(LAYERS)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(announcements.run())
        try:
            await asyncio.sleep(0)
            assert logs == [], "without models and experiments the store is not asked"
            models |= {"challenger", "17"}
            announcements.plan(ExperimentsFile(path).table())
            await wait_until(lambda: bool(logs), "the store is away")
            await store.start(is_published=False)
            async with store.client() as client:

                async def told() -> bool:
                    return await client.exists(experiment_shares_key(), served_models_key("shop")) == 2

                await wait_until(told, "the store is told")
                assert await client.zrange(served_models_key("shop"), 0, -1) == [b"17", b"challenger"]
                shares = await client.hgetall(experiment_shares_key())
                assert {name: shares_from_bytes(packed) for name, packed in shares.items()} == {
                    b"ranker": {"control": 4.0, "b": 1.0}
                }
                assert KEPT_SECONDS - 60 < await client.ttl(served_models_key("shop")) <= KEPT_SECONDS
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.kill()
    assert [(line["event"], line["log_level"]) for line in logs] == [("models_not_announced", "warning")]


@pytest.mark.parametrize("packed", [b"", b"\xff", b"[]", b'{"a": "1"}', b'{"a": 0}', b'{"a": 0.5}'])
def test_bytes_that_hold_no_shares(packed: bytes) -> None:
    assert shares_from_bytes(packed) is None
