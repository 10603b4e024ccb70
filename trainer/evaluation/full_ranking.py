"""Full ranking: the held-out item against every available item of the catalogue that the user has not interacted
with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.manifest import BlendSpec
from trainer.dataset import Dataset, HoldOut, history_states
from trainer.evaluation.reranking import RankedModel
from trainer.evaluation.scoring import BlendedScores, ScoringModel, UserVectors
from trainer.onnx_runtime import OnnxTower

BATCH_USERS = 1_024
BATCH_PAIRS = 1 << 25
"""Most scores of one batch: a million items leave 33 users at once, at 128 MiB a matrix."""


def ranks_of_targets(
    dataset: Dataset,
    hold_out: HoldOut,
    score_users: Callable[[npt.NDArray[np.int64]], Iterable[npt.NDArray[np.float32]]],
    *,
    num_rankings: int = 1,
    seed: int = 0,
) -> list[npt.NDArray[np.int64]]:
    """0-based rank of every held-out item; ties are broken at random, never in favour of the held-out item.

    `score_users` takes places in `hold_out.users`, (n,) int64, and gives (n, items) float32 for each ranking, one after
    the other; higher is better. The scores it gives are overwritten. Returns (evaluated users,) int64 for each ranking.
    """
    generators = [np.random.default_rng(seed) for _ in range(num_rankings)]
    ranks = [np.empty(len(hold_out.users), dtype=np.int64) for _ in range(num_rankings)]
    batch_users = max(1, min(BATCH_USERS, BATCH_PAIRS // len(dataset.catalogue)))
    for start in range(0, len(hold_out.users), batch_users):
        places = np.arange(start, min(start + batch_users, len(hold_out.users)))
        for ranking, scores in enumerate(score_users(places)):
            ranks[ranking][places] = _ranks_of_batch(dataset, hold_out, places, scores, generators[ranking])
    return ranks


def _ranks_of_batch(
    dataset: Dataset,
    hold_out: HoldOut,
    places: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    # A held-out item that is not available any more is a miss under every model.
    scores[:, dataset.catalogue.unavailable_rows] = -np.inf
    target_scores = scores[np.arange(len(places)), hold_out.target_rows[places]].copy()
    for row, place in enumerate(places):
        user = hold_out.users[place]
        first = dataset.offsets[user]
        scores[row, dataset.item_rows[first : first + hold_out.num_history_events[user]]] = -np.inf
    better = (scores > target_scores[:, None]).sum(axis=1)
    ties = (scores == target_scores[:, None]).sum(axis=1) - 1  # without the held-out item itself
    ranks: npt.NDArray[np.int64] = better + generator.integers(0, ties + 1)
    return ranks


def model_ranks(
    dataset: Dataset, hold_out: HoldOut, model: ScoringModel, blends: Sequence[BlendSpec | None]
) -> list[npt.NDArray[np.int64]]:
    """Ranks under a model for each of several blends, where None is the two towers alone; one pass scores for all.

    The model may be older than the data: an item it does not know comes after all it knows. Blends read what the model
    has, or ValueError is raised. Returns (evaluated users,) int64 for each blend.
    """
    scores_of = BlendedScores(model, dataset.catalogue.vocabulary, blends)

    def score_users(places: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        users = hold_out.users[places]
        return scores_of([dataset.user_ids[user] for user in users], history_states(dataset, hold_out, users))

    return ranks_of_targets(dataset, hold_out, score_users, num_rankings=len(blends))


def popularity_ranks(dataset: Dataset, hold_out: HoldOut) -> npt.NDArray[np.int64]:
    """Ranks under popularity in the training part of the hold-out: the baseline every model has to beat."""
    popularity = dataset.popularity(hold_out.num_history_events).astype(np.float32)
    (ranks,) = ranks_of_targets(dataset, hold_out, lambda places: [np.tile(popularity, (len(places), 1))])
    return ranks


def bundle_ranks(
    dataset: Dataset, hold_out: HoldOut, bundle: Bundle, user_vectors: UserVectors
) -> npt.NDArray[np.int64]:
    """Ranks as a bundle is served: by its ONNX ranker, by its blend, or by its two towers where it has neither.

    `user_vectors` runs the bundle's user tower. Returns (evaluated users,) int64.
    """
    model = ScoringModel.of_bundle(bundle, user_vectors)
    if bundle.ranker is not None:
        ranked = RankedModel.of_bundle(bundle, model, OnnxTower(bundle.ranker))
        return ranks_of_targets(dataset, hold_out, ranked.score_users(dataset, hold_out))[0]
    (ranks,) = model_ranks(dataset, hold_out, model, [bundle.manifest.blend])
    return ranks
