"""The 1+99 protocol of the literature: each target among 99 items that its user never chose.

Only for comparison with published figures. It overrates every model and can reverse the order of models (Krichene and
Rendle 2020, "On sampled metrics for item recommendation"), so its evaluations always carry the label SAMPLED.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.dataset import Dataset
from trainer.dataset.eval_split import EvalSplit
from trainer.evaluation.evaluation import SAMPLED, Evaluation
from trainer.evaluation.ranks import TieOrder
from trainer.evaluation.segments import head_items
from trainer.scoring.full_evaluation import item_popularity, question_digest
from trainer.scoring.scorer import Scorer

NUM_SAMPLED_ITEMS: Final = 99
_SEED: Final = 0
_BATCH_PAIRS: Final = 1 << 23


def evaluate_sampled(split: EvalSplit, scorer: Scorer, whole: Dataset, *, name: str) -> Evaluation:
    """Ranks each user's single target among the user's sampled items; the sample is the same for every scorer.

    `whole` holds all interactions, including those after the target. Raises ValueError for a user with more than one
    target, for which the protocol is not defined.
    """
    if (np.diff(split.target_offsets) != 1).any():
        raise ValueError(f"{SAMPLED} asks for exactly one target for each user")
    samples = sampled_items(split, whole)
    order = TieOrder.drawn(len(split.users), len(whole.catalogue), _SEED)
    ranks = np.empty(len(split.users), dtype=np.int64)
    batch = max(1, _BATCH_PAIRS // max(1, len(whole.catalogue)))
    for start in range(0, len(split.users), batch):
        positions = slice(start, start + batch)
        scores = scorer.scores(split.users[positions])
        scores[:, whole.catalogue.unavailable_rows] = -np.inf
        targets, sampled = split.target_rows[positions, None], samples[positions]
        target_scores = np.take_along_axis(scores, targets, axis=1)
        sample_scores = np.take_along_axis(scores, np.maximum(sampled, 0), axis=1)
        user_keys = order.user_numbers[positions, None]
        wins_tie = order.item_numbers[sampled] * user_keys > order.item_numbers[targets] * user_keys
        in_front = (sample_scores > target_scores) | ((sample_scores == target_scores) & wins_tie)
        ranks[positions] = (in_front & (sampled != MISSING_ROW)).sum(axis=1)
    return Evaluation(
        name=name,
        protocol=SAMPLED,
        split=split.name,
        question=question_digest(split),
        ranks=ranks,
        target_offsets=split.target_offsets,
        num_known_events=split.known.lengths[split.users],
        head_targets=head_items(item_popularity(split))[split.target_rows],
        list_metrics={},
        totals={},
    )


def sampled_items(split: EvalSplit, whole: Dataset) -> Rows:
    """(evaluated, NUM_SAMPLED_ITEMS) int64, drawn uniformly without repetition from the items the user never chose.

    Unavailable items are not drawn, nor are items without any interaction: published data sets do not hold them, and
    they would make the task easier. A user with fewer unchosen items gets all of them, then MISSING_ROW.
    """
    drawable = np.setdiff1d(whole.item_rows, whole.catalogue.unavailable_rows)
    generator = np.random.default_rng(_SEED)
    samples = np.full((len(split.users), NUM_SAMPLED_ITEMS), MISSING_ROW, dtype=np.int64)
    for position, user in enumerate(split.users):
        chosen = np.intersect1d(whole.item_rows[whole.offsets[user] : whole.offsets[user + 1]], drawable)
        num_unchosen = len(drawable) - len(chosen)
        num_drawn = min(NUM_SAMPLED_ITEMS, num_unchosen)
        drawn = generator.choice(num_unchosen, num_drawn, replace=False, shuffle=False)
        # The n-th unchosen item has index n plus the number of chosen items before it; no list of them is needed.
        unchosen_before = np.searchsorted(drawable, chosen) - np.arange(len(chosen))
        samples[position, :num_drawn] = drawable[drawn + np.searchsorted(unchosen_before, drawn, side="right")]
    return samples
