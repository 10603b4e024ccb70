"""A shop whose visitors look at showpieces and buy staples: objectives move what is recommended, in training and in a
policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from inference_server.model.serving_model import ModelSlot, open_model
from inference_server.policy.policy_file import load_policies
from inference_server.request.policy_check import policy_problems
from inference_server.request.policy_choices import policy_choices
from tandem.contract.bundle import Bundle
from tandem.contract.names import EVENT_CODES
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.in_process import Parts, in_process
from trainer.config.train_config import load_train_config
from trainer.core.errors import DataError
from trainer.core.settings import Settings
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset.dataset import Dataset, leave_last_out, load_dataset
from trainer.export.bundle import ExportInputs, TrainingData, export_bundle
from trainer.features.encoded import encode
from trainer.training.fit import unreported
from trainer.training.plan import leave_last_out_plan
from trainer.training.train import fit_plan

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

NUM_USERS = 80
SHOWPIECES = [f"showpiece-{number}" for number in range(24)]
STAPLES = [f"staple-{number}" for number in range(24)]
CONFIG = """
name = "shop"
format = "table"
[interactions]
path = "rows.csv"
user = "user"
item = "item"
event_type = "event"
timestamp = "time"
event_types = { view = "click", buy = "purchase" }
"""
SMALL = {
    "text.encoder": "none",
    "towers.embedding_dim": "16",
    "towers.user_tower": "mean",
    "fit.max_epochs": "8",
    "fit.batch_size": "32",
    "item_item.l2": "20",
    "item_item.decays_events": "5",
    "ranker.item_item_weights": "0.3",
}
POLICIES = """
scenarios:
  clicks: {objectives: {click: 1}}
  sales: {objectives: {click: 1, purchase: 50}}
  carts: {objectives: {add_to_cart: 1}}
"""


def write_shop(folder: Path) -> None:
    """Every user views ten showpieces and four staples, and buys most of the staples some time after the view."""
    generator = np.random.default_rng(0)
    lines = ["user,item,event,time"]
    for user in range(NUM_USERS):
        viewed = [*generator.permutation(SHOWPIECES)[:10], *generator.permutation(STAPLES)[:4]]
        for position, item in enumerate(generator.permutation(viewed)):
            time = 1_000_000 + 1_000 * position + user
            lines.append(f"user-{user},{item},view,{time}")
            if generator.random() < (0.9 if item.startswith("staple") else 0.02):
                lines.append(f"user-{user},{item},buy,{time + 2_500}")
    (folder / "rows.csv").write_text("\n".join(lines))
    (folder / "shop.toml").write_text(CONFIG)


@dataclass(frozen=True, kw_only=True)
class Shop:
    folder: Path
    prepared: PreparedData
    dataset: Dataset

    def train(self, name: str, **objectives: str) -> Bundle:
        """A bundle of a model that was trained on the shop."""
        config = load_train_config(None, {**SMALL, **{f"objectives.{key}": value for key, value in objectives.items()}})
        encoded = encode(self.prepared, config, Settings(data_dir=self.folder))
        fitted = fit_plan(leave_last_out_plan(encoded), config, on_epoch=unreported)
        inputs = ExportInputs(
            model=fitted.model,
            schema=encoded.schema,
            item_tensors=encoded.item_tensors,
            dataset=encoded.dataset,
            hold_out=leave_last_out(encoded.dataset, skip=0),
            training_data=TrainingData("shop", self.prepared.fingerprint, NUM_USERS, 48, 1),
            model_version=name,
            metrics=fitted.validation_metrics(),
            sources=fitted.sources,
            shares=fitted.shares,
            event_weights=self.prepared.event_weights,
        )
        return export_bundle(inputs, config, self.folder / name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    (folder / "policies.yaml").write_text(POLICIES)
    prepared = prepare(load_data_config(str(folder / "shop.toml"), {}), folder / "data")
    return Shop(folder=folder, prepared=prepared, dataset=load_dataset(prepared.directory))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parts(shop: Shop):
    slot = ModelSlot()
    slot.current = open_model(shop.train("plain").directory)
    async with in_process(slot, policies_file=shop.folder / "policies.yaml") as running:
        yield running


async def share_of_staples(parts: Parts, scenario: str = "") -> float:
    """Share of staples among the five items that are shown to visitors with two showpieces and two staples."""
    shown = []
    for visitor in range(12):
        recent = [*SHOWPIECES[2 * visitor : 2 * visitor + 2], *STAPLES[2 * visitor : 2 * visitor + 2]]
        answer = await parts.stub.Recommend(
            pb.RecommendRequest(recent_item_ids=recent, num_items=5, scenario=scenario, exclude_seen=True)
        )
        shown += [item.item_id for item in answer.items]
    assert len(shown) == 60
    return sum(item_id.startswith("staple") for item_id in shown) / len(shown)


async def test_purchases_after_views_are_in_the_data(shop: Shop) -> None:
    is_staple = np.array([item_id.startswith("staple") for item_id in shop.dataset.catalogue.item_ids])
    is_purchase = shop.dataset.event_codes == EVENT_CODES["purchase"]
    staples = is_staple[shop.dataset.item_rows]
    assert is_purchase[staples].mean() > 0.8
    assert is_purchase[~staples].mean() < 0.05
    assert len(shop.dataset.item_rows) == 14 * NUM_USERS
    assert (shop.dataset.pair_types >> EVENT_CODES["click"] - 1 & 1).all(), "every purchase was a view before"


async def test_a_policy_that_values_purchases_shows_what_is_bought(parts: Parts) -> None:
    plain, clicks = await share_of_staples(parts), await share_of_staples(parts, "clicks")
    sales = await share_of_staples(parts, "sales")
    print(f"share of staples: {plain:.2f} without objectives, {clicks:.2f} for clicks, {sales:.2f} for sales")
    assert clicks == plain, "every choice was viewed, so a click is worth the same of every item"
    assert plain < 0.4
    assert sales > plain + 0.3
    assert await share_of_staples(parts, "carts") == plain, "the data have no carts"


async def test_training_for_purchases_recommends_what_is_bought(shop: Shop, parts: Parts) -> None:
    plain = await share_of_staples(parts)
    slot = ModelSlot()
    slot.current = open_model(shop.train("purchases", purchase="1").directory)
    async with in_process(slot) as weighed:
        purchases = await share_of_staples(weighed)
    print(f"share of staples: {plain:.2f} by all choices, {purchases:.2f} by purchases")
    assert purchases > plain + 0.3


async def test_an_objective_without_events_is_named(shop: Shop, parts: Parts) -> None:
    policies = load_policies(shop.folder / "policies.yaml", policy_choices())
    assert policy_problems(policies, parts.models.current) == [
        "scenarios.carts.objectives.add_to_cart: the model's data do not say which items lead to it"
    ]
    with pytest.raises(DataError, match="no interaction of the data meets an objective: dwell"):
        shop.train("dwell", dwell="1")
