"""The NCF ranker: its initial order, its training, its negatives, and its export."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.vocabulary import Vocabulary
from tandem.ops.onnx_session import OnnxSession
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import NcfConfig, RankerConfig, TrainConfig, load_train_config
from trainer.core.errors import ConfigError
from trainer.dataset.dataset import Dataset, leave_last_out
from trainer.rankers.all_rankers import choose_ranker
from trainer.rankers.base.frozen_towers import FrozenTowers
from trainer.rankers.blend.choice import choose_blend
from trainer.rankers.ncf.examples import ranker_examples
from trainer.rankers.ncf.export import export_ncf
from trainer.rankers.ncf.network import NcfRanker, NcfShape
from trainer.rankers.ncf.ranker import FittedNcf, fit_ncf
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.content.source import CONTENT, FittedContent

NUM_ITEMS, NUM_GROUPS, DIM = 120, 6, 8
GROUPS = np.arange(NUM_ITEMS) % NUM_GROUPS
CPU = torch.device("cpu")
SMALL = NcfConfig(factors=8, hidden_sizes=(8,), batch_size=64, learning_rate=0.01, max_epochs=6)
FULL = NcfShape(dim=DIM, num_items=9, num_users=4, collaborative_scale=10.0, content_scale=2.0)
BARE = NcfShape(dim=DIM, num_items=9, num_users=0, collaborative_scale=1.0, content_scale=0.0)


def _unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _mean_of_history(tensors: Tensors) -> np.ndarray:
    vectors = tensors[names.HISTORY_VECTORS]
    count = np.maximum((tensors[names.HISTORY_EVENT_CODES] > 0).sum(axis=1), 1)
    return np.asarray(vectors.sum(axis=1) / count[:, None], dtype=np.float32)


def _loyal_users() -> Dataset:
    """Users who choose only items of one group; half of the items are much more popular."""
    generator = np.random.default_rng(4)
    weights = np.where(np.arange(NUM_ITEMS // NUM_GROUPS) % 2 == 0, 4.0, 1.0)
    share = weights / weights.sum()
    histories = [
        generator.choice(np.flatnonzero(user % NUM_GROUPS == GROUPS), 10, replace=False, p=share).tolist()
        for user in range(150)
    ]
    return dataset_of(histories, num_items=NUM_ITEMS)


def _model(dataset: Dataset, *, content: bool, user_ids: bool = False) -> ScoringModel:
    """Towers with vectors close to noise; content vectors, if any, give the group."""
    vectors = (_unit(NUM_GROUPS, 2)[GROUPS] * np.float32(0.9)).astype(np.float16)
    return ScoringModel(
        schema=FeatureSchema(history_length=12, user_ids=user_ids),
        item_vocabulary=dataset.catalogue.vocabulary,
        user_vocabulary=Vocabulary.from_ids(dataset.user_ids) if user_ids else None,
        item_vectors=_unit(NUM_ITEMS, 3) + 0.5 * _unit(NUM_GROUPS, 1)[GROUPS],
        user_vectors=_mean_of_history,
        sources={CONTENT.name: FittedContent(vectors, num_neighbours=20)} if content else {},
    )


def _towers(dataset: Dataset, model: ScoringModel, kind: str = "ncf") -> FrozenTowers:
    return FrozenTowers(dataset, model, TrainConfig(ncf=SMALL, ranker=RankerConfig(kind=kind)), CPU)


def _pairs(shape: NcfShape, count: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        names.RANKER_USER_VECTOR: torch.randn(count, DIM, generator=generator),
        names.RANKER_ITEM_VECTOR: torch.randn(count, DIM, generator=generator),
        names.RANKER_ITEM_INDEX: torch.arange(count),
        names.RANKER_USER_INDEX: torch.arange(count) % 5,
        names.RANKER_COLLABORATIVE_SCORE: torch.randn(count, generator=generator),
        names.RANKER_CONTENT_SCORE: torch.randn(count, generator=generator),
    }
    return {name: tensors[name] for name in shape.arguments}


def test_a_new_ranker_orders_as_the_towers_do() -> None:
    tensors = _pairs(FULL)
    scores = NcfRanker(SMALL, FULL).eval()(**tensors)
    assert torch.allclose(scores, 10.0 * tensors[names.RANKER_COLLABORATIVE_SCORE])


@pytest.mark.parametrize("shape", [FULL, BARE], ids=["full", "bare"])
def test_export_equals_torch_at_any_batch(tmp_path, shape) -> None:
    torch.manual_seed(0)
    ranker = NcfRanker(SMALL, shape).eval()
    for parameter in ranker.parameters():  # zeros would hide an input that was lost
        torch.nn.init.normal_(parameter, std=0.5)
    exported = export_ncf(ranker, tmp_path / "ranker.onnx")
    assert exported.max_abs_difference < 1e-4
    assert [spec.name for spec in exported.spec.inputs] == list(shape.arguments)
    assert [(spec.name, spec.shape) for spec in exported.spec.outputs] == [(names.RANKER_SCORE, ("batch",))]
    tensors = _pairs(shape, 7)
    expected = ranker(**tensors).detach().numpy()
    found = OnnxSession(exported.path)({name: tensor.numpy() for name, tensor in tensors.items()})
    assert found == pytest.approx(expected, abs=1e-4)


def test_it_learns_more_than_the_towers_know() -> None:
    dataset = _loyal_users()
    validation = leave_last_out(dataset, skip=1)
    towers = _towers(dataset, _model(dataset, content=True))
    fitted = fit_ncf(towers, validation, num_epochs=6, validation=validation)
    assert max(fitted.validation) > 1.3 * fitted.validation[0]
    assert fitted.validation[fitted.best_epoch] == max(fitted.validation)
    assert fitted.ranker.content_weight.item() > 0


def test_early_stopping_measures_the_full_ranking_of_the_candidates() -> None:
    dataset = _loyal_users()
    validation = leave_last_out(dataset, skip=1)
    towers = _towers(dataset, _model(dataset, content=True, user_ids=True))
    fitted = fit_ncf(towers, validation, num_epochs=2, validation=validation)
    metrics = towers.metrics(validation, FittedNcf(fitted.ranker).pair_scores)
    assert metrics["ndcg@10"].mean() == pytest.approx(fitted.validation[fitted.best_epoch], abs=1e-9)


def test_equal_seeds_give_equal_rankers() -> None:
    dataset = _loyal_users()
    towers = _towers(dataset, _model(dataset, content=False))
    first, second = (fit_ncf(towers, leave_last_out(dataset, skip=0), num_epochs=2).ranker for _ in range(2))
    for parameter, again in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, again)


def test_no_negative_is_an_item_that_the_user_chooses() -> None:
    dataset = _loyal_users()
    hold_out = leave_last_out(dataset, skip=1)
    examples = ranker_examples(dataset, hold_out, _model(dataset, content=False), SMALL, seed=0)
    batch = examples.draw(np.arange(len(examples)), SMALL, np.random.default_rng(0))
    rows = batch.tensors[names.RANKER_ITEM_INDEX].reshape(batch.present.shape) - 1
    assert len(examples) == int((hold_out.num_history_events - 1).sum())
    assert batch.present[:, 1:].mean() > 0.8
    for example in range(0, len(examples), 37):
        user = examples.users[example]
        start = dataset.offsets[user]
        chosen = dataset.item_rows[start : start + hold_out.num_history_events[user]]
        assert rows[example, 0] in chosen
        assert not np.isin(rows[example, 1:][batch.present[example, 1:]], chosen).any()


def test_unchosen_items_have_no_id() -> None:
    dataset = dataset_of([[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1]] * 4, num_items=NUM_ITEMS)
    towers = _towers(dataset, _model(dataset, content=False))
    ranker = fit_ncf(towers, leave_last_out(dataset, skip=0), num_epochs=3).ranker
    ids = ranker.gmf_item_embedding.weight.detach().abs().sum(dim=1)
    assert ids[1:5].min() > 0
    assert ids[5:].max() == ids[0] == 0


@pytest.mark.parametrize("content", [True, False])
def test_auto_takes_the_better_ranker(content) -> None:
    dataset = _loyal_users()
    validation = leave_last_out(dataset, skip=1)
    model = _model(dataset, content=content)
    blended = choose_blend(dataset, validation, model, load_train_config(None, {}))
    choice = choose_ranker(_towers(dataset, model, "auto"), validation, blended)
    assert choice.validation.keys() == {"blend", "ncf"}
    assert (choice.kind == "ncf") == (choice.validation["ncf"] > choice.validation["blend"])
    assert choice.trial.metrics["ndcg@10"].mean() == pytest.approx(max(choice.validation.values()))
    alone = choose_ranker(_towers(dataset, model, "blend"), validation, blended)
    assert alone.kind == "blend"
    assert alone.trial.ranker is None
    assert alone.validation == {"blend": choice.validation["blend"]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ranker.kind": "gru"}, "ranker.kind"),
        ({"ncf.hidden_sizes": "64,0"}, "ncf.hidden_sizes"),
        ({"ncf.num_hard_negatives": "0", "ncf.num_uniform_negatives": "0"}, "both 0"),
    ],
)
def test_wrong_settings_are_named(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(None, overrides)


def test_layers_are_a_list_on_the_command_line() -> None:
    assert load_train_config(None, {"ncf.hidden_sizes": "16,8"}).ncf.hidden_sizes == (16, 8)
