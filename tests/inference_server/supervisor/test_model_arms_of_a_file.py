"""Arms that name models: the table opens what it names, and an alias that does not exist yet is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.support.serving import MlflowRegistry, serve, wait_until

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


async def test_the_arms_model_answers(registry: MlflowRegistry, model_name: str, tmp_path: Path) -> None:
    old = build(tmp_path / "old", model_version="old", item_prefix="old", seed=1)
    new = build(tmp_path / "new", model_version="new", item_prefix="new", seed=2)
    registry.register(old.directory, model_name=model_name, model_version="old", alias="champion")
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(EXPERIMENTS)
    async with serve(
        tmp_path / "data",
        registry_uri=registry.uri,
        model_name=model_name,
        store_url="redis://127.0.0.1:1/0",
        experiments_file=experiments,
    ) as server:
        refused = await server.log("experiments_refused")
        assert refused["reason"] == (
            f"{experiments}:8: flag models: strategies.0.variants.1.payload.value.model: there is no alias or version "
            "'challenger' (aliases: champion)"
        )
        assert not (await server.recommend(user_id="u")).assignments

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

        # Off again: everybody is answered by the server's own model, and the challenger is let go.
        experiments.write_text(EXPERIMENTS.replace("- name: models", "- name: models\n    enabled: false"))

        async def off() -> bool:
            response = await server.recommend(user_id="user-1")
            return not response.assignments and response.model_version == "old"

        await wait_until(off, "the flag is off")
