"""Items and users that a report selects."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from trainer.dataset.eval_split import leave_last_out_split
from trainer.report.gather import MAX_MAP_CATEGORIES, MAX_MAP_ITEMS, example_users, map_points


class _ByRow:
    """Prefers items with a high row; does not know the last item."""

    def scores(self, users):
        scores = np.tile(np.arange(20, dtype=np.float32), (len(users), 1))
        scores[:, 19] = -np.inf
        return scores


def test_example_users_go_from_short_to_long_with_unseen_items_best_first() -> None:
    dataset = dataset_of([[0, 1, 2, 18, 17], [3, 18], [4]], num_items=20)
    split = leave_last_out_split(dataset, skip=0)
    short, long = example_users(split, {"by row": _ByRow()})
    assert (short.user_id, short.history, short.targets) == ("u1", ("title 3",), ("title 18",))
    assert (long.user_id, long.num_history_events, long.targets) == ("u0", 4, ("title 17",))
    assert [item.title for item in short.lists["by row"]] == [f"title {row}" for row in range(18, 8, -1)]
    assert [item.is_target for item in short.lists["by row"]] == [True] + [False] * 9
    assert [item.title for item in long.lists["by row"]][:2] == ["title 17", "title 16"]


def test_the_map_keeps_distances_along_the_widest_directions() -> None:
    generator = np.random.default_rng(0)
    dataset = dataset_of([list(range(12))], num_items=12)
    plane = generator.normal(size=(12, 2)) * [5.0, 2.0]
    rotation, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    vectors = (plane @ rotation[:2] + 3.0).astype(np.float32)
    points = sorted(map_points(dataset.catalogue, vectors), key=lambda point: int(point.title.split()[1]))
    found = np.array([(point.x, point.y) for point in points])
    distances = np.linalg.norm(found[:, None] - found[None], axis=2)
    assert distances == pytest.approx(np.linalg.norm(plane[:, None] - plane[None], axis=2), abs=1e-2)
    assert {point.category for point in points} == {"even", "odd"}


def test_the_map_is_a_sample_with_few_colours() -> None:
    num_items = MAX_MAP_ITEMS + 500
    dataset = dataset_of([[0, 1]], num_items=num_items)
    names = [[f"shelf {row % 40}", "everything"] for row in range(num_items)]
    catalogue = type(dataset.catalogue)(**{**vars(dataset.catalogue), "categories": names})
    vectors = np.random.default_rng(0).normal(size=(num_items, 4)).astype(np.float32)
    points = map_points(catalogue, vectors)
    assert len(points) == MAX_MAP_ITEMS
    assert len({point.title for point in points}) == MAX_MAP_ITEMS
    colours = {point.category for point in points}
    assert "everything" not in colours
    assert len(colours - {"other"}) == MAX_MAP_CATEGORIES
    assert points[-1].category == "other"
