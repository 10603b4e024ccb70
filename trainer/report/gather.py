"""Picks what a report shows of a data set and a model: item vectors in the plane, users with their lists."""

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
"""More points make a page slow, and show no more."""
MAX_MAP_CATEGORIES = 9
"""As many as there are colours apart; items of further categories share one."""
NUM_EXAMPLE_USERS = 8
HISTORY_SHOWN = 12
LIST_SHOWN = 10
_OTHER = "other"


def map_points(catalogue: Catalogue, item_vectors: npt.NDArray[np.float32]) -> tuple[MapPoint, ...]:
    """Items, sampled with a fixed seed, on the two principal components of all item vectors, (items, dim) float32."""
    centred = item_vectors - item_vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    rows = np.sort(np.random.default_rng(0).permutation(len(catalogue))[:MAX_MAP_ITEMS])
    places = centred[rows] @ directions[:, ::-1][:, :2]
    colours = _colours(catalogue)
    points = [
        MapPoint(x=round(float(x), 4), y=round(float(y), 4), title=title_of(catalogue, row), category=colours[row])
        for row, (x, y) in zip(rows.tolist(), places, strict=True)
    ]
    # The most frequent categories get the first colours; what has none of them comes last and lies underneath.
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
    for place, user in enumerate(users.tolist()):
        targets = split.target_rows[split.target_offsets[picked[place]] : split.target_offsets[picked[place] + 1]]
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
                        for row in rows[place].tolist()
                    )
                    for name, rows in lists.items()
                },
            )
        )
    return tuple(examples)


def best_unseen(split: EvalSplit, scorer: Scorer, users: npt.NDArray[np.int64]) -> list[Rows]:
    """For each user, (n,) int64, at most `LIST_SHOWN` rows of items they have not chosen yet, best first.

    Items that a scorer cannot know are never listed.
    """
    scores = scorer.scores(users)
    best = []
    for place, user in enumerate(users.tolist()):
        scores[place, _history(split, user)] = -np.inf
        rows = np.argsort(-scores[place], kind="stable")[:LIST_SHOWN]
        best.append(rows[np.isfinite(scores[place, rows])])
    return best


def title_of(catalogue: Catalogue, row: int) -> str:
    """An item's title, or its id where it has none."""
    return catalogue.titles[row] or catalogue.item_ids[row]


def _history(split: EvalSplit, user: int) -> Rows:
    return split.known.item_rows[split.known.offsets[user] : split.known.offsets[user + 1]]


def _titles(catalogue: Catalogue, rows: Rows) -> tuple[str, ...]:
    return tuple(title_of(catalogue, row) for row in rows.tolist())


def _colours(catalogue: Catalogue) -> list[str]:
    """Per item the most frequent of its categories that tells items apart, or `_OTHER`."""
    counts = Counter(name for categories in catalogue.categories for name in set(categories))
    telling = {name: count for name, count in counts.items() if count < len(catalogue)}
    shown = {name for name, _ in Counter(telling).most_common(MAX_MAP_CATEGORIES)}
    return [
        _most_frequent([name for name in categories if name in shown], counts) for categories in catalogue.categories
    ]


def _most_frequent(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return max(names, key=lambda name: counts[name], default=_OTHER)
