"""Arms that name models: the table opens what it names, and an alias that does not exist yet is waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.core.settings import Settings
from feature_sync.store.connection import StoreConnection
from feature_sync.store.served_models import further_models
from tandem.contract.announced import experiment_shares_key, served_models_key, shares_from_bytes
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.support.serving import MlflowRegistry, serve, valkey, wait_until

pytestmark = pytest.mark.process

EXPERIMENTS = """
features:
  - name: models
    strategies:
      - parameters: {rollout: 100}
        variants:
          - {name: control, payload: {type: json, value: {experiment: newer}}}
          - {name: treatment, payload: {type: json, value: {experiment: newer, model: challenger}}}
"""


def assert_feature_sync_follows(settings: Settings) -> None:
    """No setting of feature_sync names the arm's model; the server does, in the store."""
    with StoreConnection(settings.store_url) as connection:
        bundles = LiveBundles(settings, on_change=lambda: None, further=lambda: further_models(settings, connection))
        bundles.poll()
        assert [bundle.manifest.model_version for bundle in bundles.served()] == ["old", "new"]
        assert connection.call("ZRANGE", served_models_key(settings.model_name), 0, -1) == [b"challenger"]
        shares = connection.call("HGET", experiment_shares_key(), "newer")
        assert shares_from_bytes(shares) == {"control": 1.0, "treatment": 1.0}


async def test_the_arms_model_answers(registry: MlflowRegistry, model_name: str, tmp_path: Path) -> None:
    old = build(tmp_path / "old", model_version="old", item_prefix="old", seed=1)
    new = build(tmp_path / "new", model_version="new", item_prefix="new", seed=2)
    registry.register(old.directory, model_name=model_name, model_version="old", alias="champion")
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(EXPERIMENTS)
    async with (
        valkey(tmp_path / "store") as store,
        store.client() as client,
        serve(
            tmp_path / "data",
            registry_uri=registry.uri,
            model_name=model_name,
            store_url=store.url,
            experiments_file=experiments,
        ) as server,
    ):
        refused = await server.log("experiments_refused")
        assert refused["reason"] == (
            f"{experiments}:8: flag models: strategies.0.variants.1.payload.value.model: there is no alias or version "
            "'challenger' (aliases: champion)"
        )
        assert not (await server.recommend(user_id="u")).assignments
        assert await client.keys("tandem/1/*e*-*") == [], "nothing to tell feature_sync yet"

        registry.register(new.directory, model_name=model_name, model_version="new", alias="challenger")
        await server.log("experiments_changed", source="file")

        async def answered_by(user_id: str) -> tuple[str, bool, str]:
            response: pb.RecommendResponse = await server.recommend(user_id=user_id, num_items=5)
            (assignment,) = response.assignments
            return assignment.arm, assignment.exposed, response.model_version

        async def treated() -> bool:
            return ("treatment", True, "new") in [await answered_by(f"user-{number}") for number in range(12)]

        await wait_until(treated, "the challenger answers its arm")
        for number in range(30):
            assert await answered_by(f"user-{number}") in {("control", True, "old"), ("treatment", True, "new")}
        assert (await server.status()).experiments.refusal == ""
        settings = Settings(
            registry_uri=registry.uri, model_name=model_name, store_url=store.url, data_dir=tmp_path / "feature_sync"
        )
        await wait_until(lambda: client.exists(experiment_shares_key()), "the server tells the store")
        await asyncio.to_thread(assert_feature_sync_follows, settings)

        # Off again: everybody is answered by the server's own model, and the challenger is let go.
        experiments.write_text(EXPERIMENTS.replace("- name: models", "- name: models\n    enabled: false"))

        async def off() -> bool:
            response = await server.recommend(user_id="user-1")
            return not response.assignments and response.model_version == "old"

        await wait_until(off, "the flag is off")
