"""Examples for a ranker: choices of the training part, each with candidates that the user did not choose.

An example is what serving would have seen: the state of the user just before the choice, through the frozen towers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.features import Tensors
from tandem.contract.vocabulary import Rows
from trainer.config.train_config import NcfConfig
from trainer.dataset.dataset import Cut, Dataset
from trainer.scoring.candidate_ranking import BATCH_USERS, Candidates, candidates_of, pair_tensors
from trainer.scoring.scoring_model import ScoringModel


@dataclass(frozen=True, kw_only=True)
class RankerExamples:
    """Choices with their candidates."""

    model: ScoringModel
    chosen_rows: Rows
    """(examples,) int64."""
    candidates: Candidates
    """Candidates for the state before each choice. `present` is false for items that the user chooses in the training
    part, too: they are not negatives."""
    users: npt.NDArray[np.int64]
    """(examples,) int64."""
    chosen_keys: npt.NDArray[np.int64]
    """(interactions,) int64, ascending: user * num_items + item, for each interaction of the training part."""

    def __len__(self) -> int:
        return len(self.chosen_rows)

    def draw(self, batch: npt.NDArray[np.int64], config: NcfConfig, generator: np.random.Generator) -> RankerBatch:
        """The examples at the indices `batch`, (n,) int64, with fresh negatives."""
        hard, has_hard = self._hard_rows(batch, config.num_hard_negatives, generator)
        uniform = generator.integers(0, len(self.model.item_vectors), (len(batch), config.num_uniform_negatives))
        keys = self.users[batch, None] * len(self.model.item_vectors) + uniform
        nearest = np.minimum(np.searchsorted(self.chosen_keys, keys), len(self.chosen_keys) - 1)
        rows = np.concatenate([self.chosen_rows[batch, None], hard, uniform], axis=1)
        present = np.concatenate(
            [np.ones((len(batch), 1), dtype=np.bool_), has_hard, self.chosen_keys[nearest] != keys], axis=1
        )
        users = np.repeat(batch, rows.shape[1])
        return RankerBatch(pair_tensors(self.model, self.candidates, users, rows.reshape(-1)), present)

    def _hard_rows(
        self, batch: npt.NDArray[np.int64], count: int, generator: np.random.Generator
    ) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Draws `count` candidates of each example, at most all; returns their rows, and which of them are present."""
        count = min(count, self.candidates.rows.shape[1])
        draws = generator.random((len(batch), self.candidates.rows.shape[1]))
        draws[~self.candidates.present[batch]] = 2.0  # drawn last
        columns = np.argsort(draws, axis=1)[:, :count]
        examples = batch[:, None]
        return self.candidates.rows[examples, columns], self.candidates.present[examples, columns]


@dataclass(frozen=True)
class RankerBatch:
    """Pairs of a training step."""

    tensors: Tensors
    """Tensors of examples * (1 + negatives) pairs: for each example the chosen item, then its negatives."""
    present: npt.NDArray[np.bool_]
    """(examples, 1 + negatives) bool."""


def ranker_examples(
    dataset: Dataset,
    cut: Cut,
    model: ScoringModel,
    config: NcfConfig,
    *,
    seed: int,
) -> RankerExamples:
    """At most `config.max_examples` choices of the training part, drawn at random; `model` has the data set's rows."""
    event = np.arange(len(dataset.item_rows)) - np.repeat(dataset.offsets[:-1], dataset.lengths)
    in_training = event < np.repeat(cut.num_history_events, dataset.lengths)
    # A user's first event has no history to predict it from.
    choices = np.flatnonzero(in_training & (event > 0))
    choices = np.sort(np.random.default_rng(seed).permutation(choices)[: config.max_examples])
    users, positions = dataset.user_rows[choices], event[choices]
    parts = []
    for start in range(0, len(users), BATCH_USERS):
        batch = slice(start, start + BATCH_USERS)
        states = [dataset.user_state(int(u), int(n)) for u, n in zip(users[batch], positions[batch], strict=True)]
        parts.append(candidates_of(model, [dataset.user_ids[u] for u in users[batch]], states))
    candidates = concatenated(parts)
    num_items = len(dataset.catalogue)
    chosen_keys = np.unique(dataset.user_rows[in_training] * num_items + dataset.item_rows[in_training])
    chosen = np.isin(users[:, None] * num_items + candidates.rows, chosen_keys)
    candidates.present[chosen] = False
    return RankerExamples(
        model=model,
        chosen_rows=dataset.item_rows[choices],
        candidates=candidates,
        users=users,
        chosen_keys=chosen_keys,
    )


def concatenated(parts: list[Candidates]) -> Candidates:
    """Joins the candidates of several batches, which all have the same number of columns."""
    profiles = [part.profiles for part in parts if part.profiles is not None]
    return Candidates(
        rows=np.concatenate([part.rows for part in parts]),
        present=np.concatenate([part.present for part in parts]),
        user_vectors=np.concatenate([part.user_vectors for part in parts]),
        user_index=np.concatenate([part.user_index for part in parts]),
        profiles=np.concatenate(profiles) if profiles else None,
    )
