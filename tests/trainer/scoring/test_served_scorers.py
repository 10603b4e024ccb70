"""A model as a scorer ranks exactly as `model_ranks` does, and scores users without known events."""

from dataclasses import replace

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.manifest import BlendSpec, Calibration
from tandem.contract.vocabulary import Vocabulary
from tests.trainer.known_answers import split_of
from tests.trainer.small_dataset import dataset_of
from trainer.dataset.dataset import leave_last_out
from trainer.dataset.eval_split import leave_last_out_split
from trainer.scoring.full_evaluation import evaluate
from trainer.scoring.ranks_by_model import model_ranks
from trainer.scoring.scoring_model import ScoringModel
from trainer.scoring.served_scorers import ModelScorer
from trainer.sources.content.source import CONTENT, FittedContent

NUM_ITEMS = 60
GENERATOR = np.random.default_rng(0)
ITEM_VECTORS = GENERATOR.normal(size=(NUM_ITEMS, 8)).astype(np.float32)
CONTENT_VECTORS = GENERATOR.normal(size=(NUM_ITEMS, 4)).astype(np.float16)
BLEND = BlendSpec(content_weight=0.3, collaborative=Calibration(0.1, 2.0), content=Calibration(0.0, 1.5))


def _recent_first(tensors: Tensors) -> np.ndarray:
    """A user tower that is easy to compute by hand and depends on the order of the history."""
    weights = 0.8 ** np.arange(tensors[names.HISTORY_VECTORS].shape[1])[::-1]
    return np.asarray((tensors[names.HISTORY_VECTORS] * weights[:, None]).sum(axis=1) + 0.1, dtype=np.float32)


def _model(known_items: range = range(NUM_ITEMS)) -> ScoringModel:
    return ScoringModel(
        schema=FeatureSchema(history_length=10),
        item_vocabulary=Vocabulary.from_ids([f"i{row}" for row in known_items]),
        user_vocabulary=None,
        item_vectors=ITEM_VECTORS[list(known_items)],
        user_vectors=_recent_first,
        sources={CONTENT.name: FittedContent(CONTENT_VECTORS[list(known_items)], num_neighbours=5)},
    )


@pytest.mark.parametrize("spec", [None, BLEND])
@pytest.mark.parametrize("skip", [0, 1])
def test_ranks_are_those_of_the_hold_out(spec: BlendSpec | None, skip: int) -> None:
    histories = [np.random.default_rng(user).permutation(NUM_ITEMS)[: 3 + user % 20].tolist() for user in range(80)]
    dataset = dataset_of(histories, num_items=NUM_ITEMS)
    split = leave_last_out_split(dataset, skip=skip)
    evaluation = evaluate(split, ModelScorer(split.known, _model(), spec), name="model")
    (expected,) = model_ranks(dataset, leave_last_out(dataset, skip=skip), _model(), [spec])
    assert evaluation.ranks.tolist() == expected.tolist()


def test_a_user_without_known_events_is_scored() -> None:
    split = split_of([[], [3]], {0: [2], 1: [5]}, num_items=NUM_ITEMS)
    scores = ModelScorer(split.known, _model(), None).scores(split.users)
    assert scores[0] == pytest.approx(ITEM_VECTORS @ np.full(8, 0.1), abs=1e-5)
    assert evaluate(split, ModelScorer(split.known, _model(), BLEND), name="model").num_users == 2


def test_items_the_model_does_not_know_are_minus_infinity() -> None:
    split = split_of([[3]], {0: [2]}, num_items=NUM_ITEMS)
    scores = ModelScorer(split.known, _model(range(10, NUM_ITEMS)), BLEND).scores(split.users)
    assert np.isneginf(scores[0, :10]).all()
    assert np.isfinite(scores[0, 10:]).all()


def test_a_blend_needs_content() -> None:
    split = split_of([[3]], {0: [2]}, num_items=NUM_ITEMS)
    with pytest.raises(ValueError, match="the blend has content, but the model does not"):
        ModelScorer(split.known, replace(_model(), sources={}), BLEND)
