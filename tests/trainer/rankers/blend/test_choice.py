"""Calibration, choice of the weight and blended ranks, against data with known answers and slow computations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.held_out_users import write_held_out_users
from tandem.contract.manifest import BlendSpec, Calibration
from tandem.contract.ranking import PROFILE_DECAY_EVENTS, PROFILE_EVENTS
from tandem.contract.served import Served, ndcg
from tandem.contract.store import MAX_RECENT_EVENTS
from tandem.contract.vocabulary import Vocabulary
from tandem.ops.onnx_session import OnnxSession
from tests.support.tiny_bundle import HISTORY_LENGTH, TinySpec, build_tiny_bundle, mean_vector
from tests.trainer.bundle_ranks import bundle_ranks
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import load_train_config
from trainer.dataset.dataset import Cut, Dataset, held_out_users, history_states, leave_last_out
from trainer.evaluation.metrics import metrics_per_user
from trainer.features.encoded import Encoded
from trainer.models.sequential import sequential_weights
from trainer.rankers.blend.choice import BlendChoice, calibrate, choose_blend
from trainer.rankers.blend.settle import settle_sources
from trainer.release.serving_engine import ask_serving_engine
from trainer.scoring.ranks_by_model import model_ranks
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.all_sources import fit_sources
from trainer.sources.base.calibration import calibration_of_products
from trainer.sources.base.linear import share_with_decay
from trainer.sources.base.source import Share
from trainer.sources.base.strongest import strongest
from trainer.sources.content.source import CONTENT, FittedContent
from trainer.sources.item_item.fit import fit_item_item
from trainer.sources.item_item.source import ITEM_ITEM, FittedItemItem
from trainer.sources.sequential.source import SEQUENTIAL, FittedSequential

NUM_ITEMS = 120
NUM_GROUPS = 6
GRID = (0.0, 0.1, 0.3, 0.6)
GENERATOR = np.random.default_rng(0)


def _unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


GROUPS = np.arange(NUM_ITEMS) % NUM_GROUPS
BY_GROUP = _unit(NUM_GROUPS, 8, 1)[GROUPS] + 0.3 * _unit(NUM_ITEMS, 8, 2)
NOISE = _unit(NUM_ITEMS, 8, 3)


def _mean_of_history(tensors: Tensors) -> np.ndarray:
    """A user tower that is easy to compute by hand."""
    vectors = tensors[names.HISTORY_VECTORS]
    count = np.maximum((tensors[names.HISTORY_EVENT_CODES] > 0).sum(axis=1), 1)
    return np.asarray(vectors.sum(axis=1) / count[:, None], dtype=np.float32)


def _loyal_users(num_users: int = 150, num_events: int = 14) -> Dataset:
    """Users who choose only items of one group."""
    generator = np.random.default_rng(4)
    histories = [
        generator.permutation(np.flatnonzero(user % NUM_GROUPS == GROUPS))[:num_events].tolist()
        for user in range(num_users)
    ]
    return dataset_of(histories, num_items=NUM_ITEMS)


def _model(dataset: Dataset, item_vectors: np.ndarray, content: np.ndarray | None) -> ScoringModel:
    return ScoringModel(
        schema=FeatureSchema(history_length=20),
        item_vocabulary=dataset.catalogue.vocabulary,
        user_vocabulary=None,
        item_vectors=item_vectors,
        user_vectors=_mean_of_history,
        sources={} if content is None else {CONTENT.name: FittedContent(content.astype(np.float16), 20)},
    )


def _with_item_item(dataset: Dataset, cut: Cut, model: ScoringModel) -> ScoringModel:
    learned = fit_item_item(dataset, cut.num_history_events, load_train_config(None, {}).item_item)
    return replace(model, sources={**model.sources, ITEM_ITEM.name: FittedItemItem(learned)})


def _choose(dataset: Dataset, model: ScoringModel, content_weights: Sequence[float]) -> BlendChoice:
    config = load_train_config(None, {"ranker.content_weights": ",".join(map(str, content_weights))})
    return choose_blend(dataset, leave_last_out(dataset, skip=1), model, config)


def test_calibration_is_over_every_pair() -> None:
    users, items = GENERATOR.normal(0.5, 1.0, (70, 8)).astype(np.float32), NOISE
    scores = users @ items.T
    measured = calibration_of_products(users, items)
    assert measured.mean == pytest.approx(scores.mean(), abs=1e-5)
    assert measured.std == pytest.approx(scores.std(), rel=1e-5)


def test_equal_scores_have_a_deviation_of_one() -> None:
    same = np.full((5, 3), 0.7, np.float32)
    assert calibration_of_products(same, same).std == 1.0
    assert calibration_of_products(np.zeros((5, 3), np.float32), same) == Calibration(0.0, 1.0)


def test_validation_takes_content_if_only_content_helps() -> None:
    dataset = _loyal_users()
    choice = _choose(dataset, _model(dataset, NOISE, BY_GROUP), GRID)
    assert choice.shares["content"].weight == max(GRID)
    assert choice.by_weight["content"][0.6] > 2 * choice.by_weight["content"][0.0]
    assert choice.metrics["ndcg@10"].mean() == choice.by_weight["content"][0.6]
    assert choice.two_tower["ndcg@10"].mean() == pytest.approx(choice.by_weight["content"][0.0])


def test_validation_takes_no_content_if_content_is_noise() -> None:
    dataset = _loyal_users()
    grid = (0.0, 0.3, 0.6)
    choice = _choose(dataset, _model(dataset, BY_GROUP, NOISE), grid)
    assert choice.shares["content"].weight == 0.0
    assert choice.by_weight["content"][0.0] > choice.by_weight["content"][0.6]


def test_of_equally_good_weights_the_lower_is_taken() -> None:
    dataset = _loyal_users()
    model = _model(dataset, BY_GROUP, BY_GROUP[:, :1] * 0.0)
    choice = _choose(dataset, model, GRID)
    assert len(set(choice.by_weight["content"].values())) == 1
    assert choice.shares["content"].weight == 0.0


def test_a_single_weight_is_taken_as_it_is_and_without_content_there_is_no_choice() -> None:
    dataset = _loyal_users()
    assert _choose(dataset, _model(dataset, BY_GROUP, NOISE), [0.3]).shares == {"content": Share(0.3)}
    without = _choose(dataset, _model(dataset, BY_GROUP, None), GRID)
    assert without.shares is None
    assert without.by_weight == {}
    assert without.metrics["ndcg@10"].tolist() == without.two_tower["ndcg@10"].tolist()


def test_a_weight_of_zero_is_the_order_of_the_two_towers() -> None:
    dataset = _loyal_users()
    test = leave_last_out(dataset, skip=0)
    model = _model(dataset, NOISE, BY_GROUP)
    spec = calibrate(dataset, test, model, {"content": Share(0.0)})
    alone, blended = model_ranks(dataset, test, model, [None, spec])
    assert alone.tolist() == blended.tolist()


def test_batches_do_not_change_ranks(monkeypatch) -> None:
    dataset = _loyal_users()
    test = leave_last_out(dataset, skip=0)
    model = _model(dataset, NOISE, BY_GROUP)
    spec = calibrate(dataset, test, model, {"content": Share(0.3)})
    whole = model_ranks(dataset, test, model, [spec])[0]
    monkeypatch.setattr("trainer.scoring.full_ranking.BATCH_PAIRS", 7 * NUM_ITEMS)
    assert model_ranks(dataset, test, model, [spec])[0].tolist() == whole.tolist()


def test_blended_ranks_are_those_of_a_slow_computation() -> None:
    dataset = _loyal_users(num_users=40, num_events=16)
    test = leave_last_out(dataset, skip=0)
    content = BY_GROUP + 0.2 * _unit(NUM_ITEMS, 8, 5)
    model = _model(dataset, NOISE, content)
    stored = content.astype(np.float16).astype(np.float64)
    collaborative, similar = np.empty((40, NUM_ITEMS)), np.empty((40, NUM_ITEMS))
    histories = []
    for user in range(40):
        start, end = dataset.offsets[user], dataset.offsets[user + 1] - 1
        history = dataset.item_rows[start:end].tolist()
        histories.append(history)
        for item in range(NUM_ITEMS):
            collaborative[user, item] = np.mean([NOISE[row] for row in history], axis=0) @ NOISE[item]
            decay = np.exp(-np.arange(10)[::-1] / 5.0)
            similar[user, item] = decay @ stored[history[-10:]] / decay.sum() @ stored[item]
    spec = calibrate(dataset, test, model, {"content": Share(0.3)})
    assert spec.collaborative.mean == pytest.approx(collaborative.mean(), abs=1e-5)
    assert spec.content.std == pytest.approx(similar.std(), rel=1e-4)
    scores = 0.7 * (collaborative - collaborative.mean()) / collaborative.std()
    scores += 0.3 * (similar - similar.mean()) / similar.std()
    expected = []
    for user, history in enumerate(histories):
        candidates = [item for item in range(NUM_ITEMS) if item not in history]
        ranked = sorted(candidates, key=lambda item: -scores[user, item])
        expected.append(ranked.index(int(test.target_rows[user])))
    assert model_ranks(dataset, test, model, [spec])[0].tolist() == expected


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two bundles of the same vectors: one with a blend, and an older bundle without a blend."""
    folder = tmp_path_factory.mktemp("bundles")
    return [
        build_tiny_bundle(folder / name, TinySpec(num_items=60, model_version=name, content_weight=weight))
        for name, weight in (("blended", 0.4), ("older", None))
    ]


@pytest.fixture(scope="module")
def newer_data() -> Dataset:
    """Data with 5 items that the bundles do not know, in histories and in targets."""
    generator = np.random.default_rng(6)
    dataset = dataset_of([generator.permutation(65)[:15].tolist() for _ in range(50)], num_items=65)
    ids = [f"item-{row}" for row in range(65)]
    return replace(dataset, catalogue=replace(dataset.catalogue, item_ids=ids, vocabulary=Vocabulary.from_ids(ids)))


@pytest.mark.parametrize("which", [0, 1], ids=["blended", "older"])
def test_a_bundle_ranks_as_it_is_served(bundles, newer_data, which) -> None:
    bundle = bundles[which]
    test = leave_last_out(newer_data, skip=0)
    ranks = bundle_ranks(newer_data, test, bundle, OnnxSession(bundle.user_tower))
    for position, user in enumerate(test.users):
        history = newer_data.item_rows[newer_data.offsets[user] : newer_data.offsets[user + 1] - 1].tolist()
        known = [row for row in history if row < 60]
        scores = bundle.item_vectors @ mean_vector(bundle, [f"item-{row}" for row in known[-HISTORY_LENGTH:]])
        if bundle.content is not None:
            vectors = bundle.content.vectors.astype(np.float32)
            newest = known[-PROFILE_EVENTS:]
            decay = np.exp(-np.arange(len(newest))[::-1] / PROFILE_DECAY_EVENTS)
            profile = decay @ vectors[newest] / decay.sum()
            scores = 0.6 * scores + 0.4 * (vectors @ profile)  # the tiny blend has mean 0, std 1
        ranked = [int(row) for row in np.argsort(-scores) if row not in history]
        target = int(test.target_rows[position])
        if target < 60:
            assert ranks[position] == ranked.index(target)
        else:
            assert ranks[position] >= len(ranked)


@pytest.mark.process
def test_the_serving_engine_answers_as_the_trainer_measures(bundles, newer_data, tmp_path) -> None:
    """The gate's figures equal the trainer's own evaluation, user by user, if every item is a candidate."""
    # The item-item source reads more events of a history than the towers and the content profile.
    far = {"item_item_weight": 0.5, "item_item_decay_events": 10.0, "sequential_weight": 0.4}
    all_sources = build_tiny_bundle(tmp_path / "all", TinySpec(num_items=60, content_weight=0.2, **far))
    test = leave_last_out(newer_data, skip=0)
    users = tmp_path / "users.jsonl"
    write_held_out_users(users, held_out_users(newer_data, test, np.arange(len(test.users))))
    for pair in ([bundles[0], bundles[1]], [all_sources, bundles[0]]):
        candidate, against = (bundle.directory for bundle in pair)
        served = ask_serving_engine(candidate, users, against=against, num_shown=10, output=tmp_path / "served.json")
        assert isinstance(served, Served)
        for bundle, answered in zip(pair, (served.candidate, served.against), strict=True):
            ranks = bundle_ranks(newer_data, test, bundle, OnnxSession(bundle.user_tower))
            assert ndcg(answered.ranks) == pytest.approx(metrics_per_user(ranks)["ndcg@10"], abs=1e-6)
        assert ndcg(served.candidate.ranks).mean() > 0
        assert ndcg(served.candidate.ranks).tolist() != ndcg(served.against.ranks).tolist()


@pytest.mark.process
def test_whole_histories_are_served_as_the_trainer_measures(bundles, tmp_path) -> None:
    """Users with more events than a state keeps, whose sources propose the items with the highest scores."""
    num_items = 300
    generator = np.random.default_rng(7)
    lengths = [30, *[MAX_RECENT_EVENTS + 60] * 19, *[MAX_RECENT_EVENTS - 1] * 5]
    dataset = dataset_of(
        [generator.permutation(num_items)[:length].tolist() for length in lengths], num_items=num_items
    )
    ids = [f"item-{row}" for row in range(num_items)]
    dataset = replace(dataset, catalogue=replace(dataset.catalogue, item_ids=ids, vocabulary=Vocabulary.from_ids(ids)))
    far = {"item_item_weight": 0.6, "item_item_decay_events": 1000.0, "sequential_weight": 0.5, "by_score": True}
    whole, newest = (
        build_tiny_bundle(tmp_path / name, TinySpec(num_items=num_items, whole_history=flag, **far))
        for name, flag in (("whole", True), ("newest", False))
    )
    test = leave_last_out(dataset, skip=0)
    users = tmp_path / "users.jsonl"
    write_held_out_users(users, held_out_users(dataset, test, np.arange(len(test.users))))
    served = ask_serving_engine(
        whole.directory, users, against=newest.directory, num_shown=10, output=tmp_path / "served.json"
    )
    assert isinstance(served, Served)
    for bundle, answered in ((whole, served.candidate), (newest, served.against)):
        ranks = bundle_ranks(dataset, test, bundle, OnnxSession(bundle.user_tower))
        assert ndcg(answered.ranks) == pytest.approx(metrics_per_user(ranks)["ndcg@10"], abs=1e-6)
    assert ndcg(served.candidate.ranks).tolist() != ndcg(served.against.ranks).tolist()


def test_a_model_without_content_is_not_blended() -> None:
    dataset = _loyal_users(num_users=6)
    test = leave_last_out(dataset, skip=0)
    model = _model(dataset, NOISE, None)
    spec = BlendSpec(0.3, Calibration(0.0, 1.0), Calibration(0.0, 1.0))
    with pytest.raises(ValueError, match="the blend has content, but the model does not"):
        model_ranks(dataset, test, model, [spec])
    with pytest.raises(ValueError, match="the blend has content, but the model does not"):
        calibrate(dataset, test, model, {"content": Share(0.3)})


def test_validation_takes_the_item_item_source_if_only_it_helps() -> None:
    dataset = _loyal_users()
    validation = leave_last_out(dataset, skip=1)
    config = load_train_config(None, {})
    model = _with_item_item(dataset, validation, _model(dataset, NOISE, None))
    choice = choose_blend(dataset, validation, model, config)
    assert choice.shares is not None
    assert choice.shares["item_item"].weight == max(config.ranker.item_item_weights)
    assert choice.by_weight["item_item"][0.7] > 2 * choice.by_weight["item_item"][0.0]
    assert choice.by_weight["item_item"][0.0] == pytest.approx(choice.two_tower["ndcg@10"].mean())
    assert choice.by_weight.keys() == {"item_item"}


def test_the_user_tower_runs_once_for_all_blends_that_are_tried() -> None:
    dataset = _loyal_users()
    validation = leave_last_out(dataset, skip=1)
    config = load_train_config(None, {})
    asked: list[int] = []

    def counted(tensors: Tensors) -> np.ndarray:
        asked.append(len(tensors[names.HISTORY_VECTORS]))
        return _mean_of_history(tensors)

    model = replace(_with_item_item(dataset, validation, _model(dataset, NOISE, BY_GROUP)), user_vectors=counted)
    choice = choose_blend(dataset, validation, model, config)
    assert sum(asked) == len(validation.users)
    assert choice.by_weight["item_item"]
    assert choice.by_weight["content"]


def test_the_item_item_source_is_calibrated_on_every_pair() -> None:
    dataset = _loyal_users()
    test = leave_last_out(dataset, skip=0)
    model = _with_item_item(dataset, test, _model(dataset, NOISE, None))
    share = Share(0.4, decay_events=5.0)
    spec = calibrate(dataset, test, model, {"item_item": share})
    histories = model.histories(history_states(dataset, test, test.users))
    scores = model.sources[ITEM_ITEM.name].all_scores(histories, share)
    assert spec.content is None
    assert spec.item_item is not None
    assert spec.item_item.calibration.mean == pytest.approx(scores.mean(), abs=1e-6)
    assert spec.item_item.calibration.std == pytest.approx(scores.std(), rel=1e-4)


def _cycles(num_users: int = 120, num_events: int = 16) -> Dataset:
    """Users who walk through the items in order, each from an item of their own."""
    generator = np.random.default_rng(5)
    starts = generator.integers(0, NUM_ITEMS, num_users)
    return dataset_of([((start + np.arange(num_events)) % NUM_ITEMS).tolist() for start in starts], num_items=NUM_ITEMS)


def _encoded(dataset: Dataset) -> Encoded:
    return Encoded(dataset=dataset, schema=FeatureSchema(history_length=5), item_tensors={}, content_vectors=None)


def test_validation_takes_the_sequential_source_where_order_says_what_comes_next() -> None:
    dataset = _cycles()
    validation = leave_last_out(dataset, skip=1)
    config = settle_sources(_encoded(dataset), validation, load_train_config(None, {}))
    assert len(config.sequential.decays_events) == len(config.sequential.l2) == 1
    assert len(config.item_item.l2) == len(config.item_item.dropout) == len(config.item_item.num_neighbours) == 1
    sources = fit_sources(_encoded(dataset), validation, config)
    choice = choose_blend(dataset, validation, replace(_model(dataset, NOISE, None), sources=sources), config)
    assert choice.shares is not None
    assert choice.shares["sequential"].weight > 0
    assert choice.metrics["ndcg@10"].mean() == 1.0
    assert choice.by_weight["sequential"][0.0] < 0.2
    # Where the two towers have no share, the sources propose by their scores.
    towerless = choice.shares["sequential"].weight == 1.0 or choice.shares["item_item"].weight == 1.0
    assert choice.shares["sequential"].by_score == towerless


def test_what_validation_chose_is_what_the_served_source_is_fitted_with() -> None:
    dataset = _cycles()
    test = leave_last_out(dataset, skip=0)
    overrides = {"sequential.l2": "40", "sequential.decays_events": "3", "sequential.num_neighbours": "7"}
    config = load_train_config(None, overrides)
    shares = {"sequential": share_with_decay(0.5, 3.0)}
    sources = fit_sources(_encoded(dataset), test, config, shares)
    assert sources.keys() == {SEQUENTIAL.name}
    fitted = sources[SEQUENTIAL.name]
    assert isinstance(fitted, FittedSequential)
    assert fitted.share == shares["sequential"]
    learned = sequential_weights(dataset.first_events(test.num_history_events), decay_events=3.0, l2=40.0)
    assert fitted.learned.rows.tolist() == strongest(learned, 7).rows.tolist()


def test_a_source_without_a_share_is_not_exported() -> None:
    dataset = _cycles()
    test = leave_last_out(dataset, skip=0)
    shares = {"sequential": share_with_decay(0.0, 3.0), "item_item": share_with_decay(0.5, 1000.0)}
    sources = fit_sources(_encoded(dataset), test, load_train_config(None, {}), shares)
    assert sources.keys() == {ITEM_ITEM.name}
    fitted = sources[ITEM_ITEM.name]
    assert isinstance(fitted, FittedItemItem)
    assert fitted.share == Share(0.5, 1000.0, whole_history=True, by_score=True)
