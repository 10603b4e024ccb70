"""Selects the items and users of a report: item vectors in the plane, and example users with their lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import Rows
from trainer.dataset.dataset import Catalogue
from trainer.dataset.eval_split import EvalSplit
from trainer.report.contents import ExampleUser, ListedItem, MapPoint
from trainer.scoring.scorer import Scorer

MAX_MAP_ITEMS = 2_000
"""More points make the page slow and show nothing new."""
MAX_MAP_CATEGORIES = 9
"""Number of colours that can be told apart; items of all other categories share one more colour."""
NUM_EXAMPLE_USERS = 8
HISTORY_SHOWN = 12
LIST_SHOWN = 10
_OTHER = "other"


def map_points(catalogue: Catalogue, item_vectors: npt.NDArray[np.float32]) -> tuple[MapPoint, ...]:
    """Items, sampled with a fixed seed, on the two principal components of all item vectors, (items, dim) float32."""
    centred = item_vectors - item_vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    rows = np.sort(np.random.default_rng(0).permutation(len(catalogue))[:MAX_MAP_ITEMS])
    coordinates = centred[rows] @ directions[:, ::-1][:, :2]
    categories = _map_categories(catalogue)
    points = [
        MapPoint(x=round(float(x), 4), y=round(float(y), 4), title=title_of(catalogue, row), category=categories[row])
        for row, (x, y) in zip(rows.tolist(), coordinates, strict=True)
    ]
    # Frequent categories get the first colours; items of the category `_OTHER` come last.
    frequency = Counter(point.category for point in points)
    points.sort(key=lambda point: (point.category == _OTHER, -frequency[point.category], point.category))
    return tuple(points)


def example_users(split: EvalSplit, scorers: Mapping[str, Scorer]) -> tuple[ExampleUser, ...]:
    """Test users from the shortest history to the longest, with the best items under every scorer by full ranking."""
    lengths = split.known.lengths[split.users]
    by_length = np.argsort(lengths, kind="stable")
    picked = by_length[np.linspace(0, len(by_length) - 1, min(NUM_EXAMPLE_USERS, len(by_length))).astype(np.int64)]
    users = split.users[picked]
    lists = {name: best_unseen(split, scorer, users) for name, scorer in scorers.items()}
    catalogue = split.known.catalogue
    examples = []
    for index, user in enumerate(users.tolist()):
        targets = split.target_rows[split.target_offsets[picked[index]] : split.target_offsets[picked[index] + 1]]
        history = _history(split, user)
        examples.append(
            ExampleUser(
                user_id=split.known.user_ids[user],
                num_history_events=len(history),
                history=_titles(catalogue, history[-HISTORY_SHOWN:]),
                targets=_titles(catalogue, targets),
                lists={
                    name: tuple(
                        ListedItem(title=title_of(catalogue, row), is_target=row in targets)
                        for row in rows[index].tolist()
                    )
                    for name, rows in lists.items()
                },
            )
        )
    return tuple(examples)


def best_unseen(split: EvalSplit, scorer: Scorer, users: npt.NDArray[np.int64]) -> list[Rows]:
    """For each user, (n,) int64, at most `LIST_SHOWN` rows of items that the user has not seen yet, best first.

    Items without a finite score, which the scorer does not know, are never listed.
    """
    scores = scorer.scores(users)
    best = []
    for user, user_scores in zip(users.tolist(), scores, strict=True):
        user_scores[split.known.seen_rows(user, int(split.known.lengths[user]))] = -np.inf
        rows = np.argsort(-user_scores, kind="stable")[:LIST_SHOWN]
        best.append(rows[np.isfinite(user_scores[rows])])
    return best


def title_of(catalogue: Catalogue, row: int) -> str:
    """An item's title, or its id where it has none."""
    return catalogue.titles[row] or catalogue.item_ids[row]


def _history(split: EvalSplit, user: int) -> Rows:
    return split.known.item_rows[split.known.offsets[user] : split.known.offsets[user + 1]]


def _titles(catalogue: Catalogue, rows: Rows) -> tuple[str, ...]:
    return tuple(title_of(catalogue, row) for row in rows.tolist())


def _map_categories(catalogue: Catalogue) -> list[str]:
    """For each item, its most frequent category among those that the map shows, or `_OTHER`.

    A category of all items is not shown.
    """
    counts = Counter(name for categories in catalogue.categories for name in set(categories))
    distinctive = {name: count for name, count in counts.items() if count < len(catalogue)}
    shown = {name for name, _ in Counter(distinctive).most_common(MAX_MAP_CATEGORIES)}
    return [
        _most_frequent([name for name in categories if name in shown], counts) for categories in catalogue.categories
    ]


def _most_frequent(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return max(names, key=lambda name: counts[name], default=_OTHER)
