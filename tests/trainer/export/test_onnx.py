import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tandem.contract import names
from tandem.contract.features import HISTORY_FEATURES, FeatureSchema, UserFeature, encode_users, tower_inputs
from tandem.ops.onnx_session import OnnxSession
from tests.trainer.small_dataset import dataset_of
from trainer.compute.onnx_export import ExportedNetwork
from trainer.config.train_config import TowersConfig
from trainer.core.errors import ExportError
from trainer.export.onnx import export_item_tower, export_user_tower
from trainer.features.schema import item_inputs
from trainer.models.two_tower import TwoTowerModel

FULL = FeatureSchema(
    history_length=6,
    user_features=(
        UserFeature("age", boundaries=(18.0, 35.0)),
        UserFeature("gender", values=("F", "M")),
        *HISTORY_FEATURES,
    ),
    item_categories=("even", "odd"),
    max_item_categories=2,
    text_encoder="minilm",
    text_dim=12,
    user_ids=True,
)
BARE = FeatureSchema(history_length=6)


def _model(
    schema: FeatureSchema, similarity: str, user_tower: str = "transformer", *, num_layers: int = 2
) -> TwoTowerModel:
    torch.manual_seed(0)
    config = TowersConfig(
        embedding_dim=8, history_length=6, similarity=similarity, user_tower=user_tower, num_layers=num_layers
    )
    model = TwoTowerModel(config, schema, num_items=9, num_users=4).eval()
    for parameter in model.parameters():  # zero-initialised tables would hide an input that was lost
        torch.nn.init.normal_(parameter, std=0.5)
    return model


class Exported(NamedTuple):
    """A model, and its user tower as exported."""

    model: TwoTowerModel
    user_tower: ExportedNetwork

    @property
    def session(self) -> OnnxSession:
        return OnnxSession(self.user_tower.path)


Export = Callable[[FeatureSchema, str, str], Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Export:
    """Exports the user tower of a schema, similarity and kind, each once: an export takes seconds."""
    folder = tmp_path_factory.mktemp("towers")

    @functools.cache
    def export(schema: FeatureSchema, similarity: str, kind: str) -> Exported:
        # A layer takes seconds: half of the towers have one, the others two.
        num_layers = 1 if (schema, similarity) in ((FULL, "dot"), (BARE, "cosine")) else 2
        model = _model(schema, similarity, kind, num_layers=num_layers)
        path = folder / f"{similarity}-{kind}-{len(schema.user_features)}.onnx"
        return Exported(model, export_user_tower(model, schema, path, dim=8))

    return export


@pytest.mark.parametrize(
    ("similarity", "user_tower"), [("dot", "transformer"), ("cosine", "transformer"), ("cosine", "mean")]
)
@pytest.mark.parametrize("schema", [FULL, BARE], ids=["full", "bare"])
def test_towers_equal_torch_at_any_batch(tmp_path, exported, schema, similarity, user_tower) -> None:
    dataset = dataset_of([[0, 1, 2, 3, 4, 5, 6, 7], [8], [3, 1]], num_items=9)
    text = np.random.default_rng(0).normal(size=(9, schema.text_dim)).astype(np.float32)
    model, user_export = exported(schema, similarity, user_tower)
    tensors = item_inputs(dataset.catalogue, schema, text_embeddings=text, popularity=np.ones(9, np.int64))
    item_export = export_item_tower(model, tensors, tmp_path / "item.onnx", dim=8)
    assert item_export.max_abs_difference < 1e-4
    assert user_export.max_abs_difference < 1e-4
    assert [spec.name for spec in item_export.spec.inputs] == list(tensors)

    item_vectors = OnnxSession(item_export.path)(tensors)
    states = [dataset.user_state(user, int(count)) for user, count in enumerate(dataset.lengths)]
    inputs = encode_users(
        states,
        schema=schema,
        item_vocabulary=dataset.catalogue.vocabulary,
        item_vectors=item_vectors,
        user_index=np.array([1, 2, 3]),
    )
    with torch.inference_mode():
        expected = model.user_tower(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
    assert OnnxSession(user_export.path)(inputs) == pytest.approx(expected, abs=1e-4)
    if similarity == "cosine":
        assert np.linalg.norm(item_vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("similarity", "user_tower"), [("dot", "transformer"), ("cosine", "mean")])
def test_a_history_without_events_gives_a_finite_vector(exported, similarity, user_tower) -> None:
    tower = exported(BARE, similarity, user_tower).session
    empty = {
        names.HISTORY_VECTORS: np.zeros((1, 6, 8), np.float32),
        names.HISTORY_EVENT_CODES: np.zeros((1, 6), np.int64),
        names.HISTORY_AGES: np.zeros((1, 6), np.float32),
    }
    assert np.isfinite(tower(empty)).all()


def test_an_export_that_differs_is_refused(tmp_path) -> None:
    model = _model(BARE, "dot", "mean")
    with torch.no_grad():
        model.user_tower.encoder.norm.weight.fill_(float("nan"))
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_user_tower(model, BARE, tmp_path / "user.onnx", dim=8)


@pytest.mark.parametrize("user_tower", ["transformer", "mean"])
def test_vectors_depend_only_on_earlier_events(user_tower) -> None:
    """Causality: later events must not change the vector after an event, or training would see its own targets."""
    tower = _model(BARE, "dot", user_tower).user_tower
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(1, 6, 8, generator=generator)
    codes = torch.full((1, 6), 5)
    ages = torch.tensor([[500.0, 400.0, 300.0, 200.0, 100.0, 0.0]])
    changed = vectors.clone()
    changed[:, 4:] += torch.randn(1, 2, 8, generator=generator)
    with torch.inference_mode():
        before, after = tower.sequence(vectors, codes, ages), tower.sequence(changed, codes, ages)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("user_tower", ["transformer", "mean"])
@pytest.mark.parametrize("schema", [FULL, BARE], ids=["full", "bare"])
def test_serving_computes_only_the_newest_vector(schema, user_tower) -> None:
    tower = _model(schema, "cosine", user_tower).user_tower
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(3, 6, 8, generator=generator)
    codes = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 1], [0] * 6])
    ages = torch.tensor([[500.0, 400.0, 300.0, 200.0, 100.0, 0.0]] * 3)
    features = (torch.ones(3, len(schema.user_features), dtype=torch.int64), torch.tensor([1, 2, 0]))
    features = features if schema is FULL else ()
    with torch.inference_mode():
        newest, every = tower(vectors, codes, ages, *features), tower.sequence(vectors, codes, ages, *features)
    assert newest.shape == (3, 8)
    torch.testing.assert_close(newest, every[:, -1], atol=1e-5, rtol=0)


def test_short_histories_are_read_without_their_empty_columns(exported) -> None:
    tower = exported(BARE, "dot", "transformer").session
    generator = np.random.default_rng(3)
    present = np.arange(6) >= np.array([[4], [5], [6]])  # two events, one event, no event
    full = {
        names.HISTORY_VECTORS: np.where(present[..., None], generator.normal(size=(3, 6, 8)), 0.0).astype(np.float32),
        names.HISTORY_EVENT_CODES: np.where(present, 1, 0),
        names.HISTORY_AGES: np.where(present, [[0, 0, 0, 0, 50, 0]], 0).astype(np.float32),
    }
    fewer = tower_inputs(full, tower.inputs)
    assert {name: fewer[name].shape[1] for name in tower.inputs} == dict.fromkeys(names.HISTORY, 2)
    assert tower_inputs({name: array[2:] for name, array in full.items()}, tower.inputs)[names.HISTORY_AGES].size == 1
    one_by_one = [tower({name: array[user : user + 1] for name, array in full.items()}) for user in range(3)]
    np.testing.assert_allclose(tower(full), np.concatenate(one_by_one), atol=1e-5)
    longest = {name: np.concatenate([array, np.ones_like(array[:1])]) for name, array in full.items()}
    np.testing.assert_allclose(tower(longest)[:3], tower(full), atol=1e-5)
    fixed = {name: [None, 6] for name in names.HISTORY}
    assert tower_inputs(full, fixed)[names.HISTORY_VECTORS] is full[names.HISTORY_VECTORS]


def test_the_mean_tower_starts_as_a_plain_mean_and_learns_to_weigh_by_age() -> None:
    encoder = _model(BARE, "dot", "mean").user_tower.encoder
    torch.nn.init.zeros_(encoder.bias.by_age.weight)
    events, codes = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 5, 5]])
    ages = torch.tensor([[0.0, 1e6, 0.0]])
    expected = events[:, 1:].mean(dim=1)
    with torch.inference_mode():
        plain = encoder(events, codes, ages, None)[:, -1]
        assert torch.allclose(plain, encoder.norm(expected + encoder.feed_forward(expected)), atol=1e-6)
        encoder.bias.by_age.weight[0] = 50.0  # only the newest event counts
        newest = encoder(events, codes, ages, None)[:, -1]
        assert torch.allclose(newest, encoder.norm(events[:, 2] + encoder.feed_forward(events[:, 2])), atol=1e-6)


def test_features_that_change_with_every_event_are_read_at_their_position() -> None:
    tower = _model(replace(FULL, user_ids=False), "dot").user_tower
    generator = torch.Generator().manual_seed(1)
    vectors, event_codes, ages = torch.randn(2, 6, 8, generator=generator), torch.full((2, 6), 5), torch.zeros(2, 6)
    codes = torch.randint(0, 3, (2, 6, 4), generator=generator)
    with torch.inference_mode():
        at_every_event = tower.sequence(vectors, event_codes, ages, codes)
        at_the_newest = tower(vectors, event_codes, ages, codes[:, -1])
    assert torch.allclose(at_every_event[:, -1], at_the_newest, atol=1e-6)


def test_unknown_items_and_schema_variants_have_vectors(tmp_path) -> None:
    """An item that was never trained on gets its vector from its text and categories."""
    schema = replace(FULL, user_ids=False)
    dataset = dataset_of([[0, 1]], num_items=9)
    text = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    tensors = item_inputs(dataset.catalogue, schema, text_embeddings=text, popularity=np.ones(9, np.int64))
    tower = OnnxSession(export_item_tower(_model(schema, "dot"), tensors, tmp_path / "item.onnx", dim=8).path)
    unknown = tower({**tensors, names.ITEM_INDEX: np.zeros(9, np.int64)})
    assert len(np.unique(unknown.round(4), axis=0)) == 9
