"""Full ranking of held-out items by a bundle, for tests that compare it with the trained model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.ops.onnx_session import OnnxSession
from trainer.dataset.dataset import Dataset, HoldOut
from trainer.scoring.candidate_ranking import RankedModel
from trainer.scoring.ranks_by_model import model_ranks, ranks_of_targets
from trainer.scoring.scoring_model import ScoringModel, UserVectors


def bundle_ranks(
    dataset: Dataset, hold_out: HoldOut, bundle: Bundle, user_vectors: UserVectors
) -> npt.NDArray[np.int64]:
    """Ranks as a bundle is served: by its ONNX ranker, by its blend, or by its two towers if it has neither.

    `user_vectors` runs the bundle's user tower. Returns (evaluated users,) int64.
    """
    model = ScoringModel.of_bundle(bundle, user_vectors)
    if bundle.ranker is not None:
        ranked = RankedModel(model=model, pair_scores=OnnxSession(bundle.ranker))
        return ranks_of_targets(dataset, hold_out, ranked.score_users(dataset, hold_out))[0]
    (ranks,) = model_ranks(dataset, hold_out, model, [bundle.manifest.blend])
    return ranks
