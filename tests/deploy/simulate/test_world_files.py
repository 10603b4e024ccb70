"""A world as files: what `trainer prepare` reads, and the same world again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from deploy.simulate.errors import UsageError
from deploy.simulate.history import interactions
from deploy.simulate.settings import WorldSettings
from deploy.simulate.world_files import DATASET, read_world, write_world
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare
from trainer.dataset.dataset import load_dataset

SETTINGS = WorldSettings(users=40, items=30, new_users=4, new_items=3)
UNTIL = datetime(2026, 11, 1, tzinfo=UTC)


def test_the_trainer_reads_all_of_it(tmp_path: Path) -> None:
    world = write_world(tmp_path / "shop", SETTINGS, UNTIL)
    prepared = prepare(load_data_config(str(tmp_path / "shop" / DATASET), {}), tmp_path / "data")
    dataset = load_dataset(prepared.directory)
    views = [row for row in interactions(world) if row.type == "view"]
    assert len(dataset.item_rows) == len(views), "one interaction for each user and item"
    assert len(dataset.user_ids) == SETTINGS.users
    assert len(dataset.catalogue.item_ids) == SETTINGS.items
    assert prepared.findings == ()


def test_the_same_world_comes_back(tmp_path: Path) -> None:
    world = write_world(tmp_path / "shop", SETTINGS, UNTIL)
    before = (tmp_path / "shop" / "interactions.csv").read_bytes()
    write_world(tmp_path / "shop", SETTINGS, datetime(2027, 1, 1, tzinfo=UTC))
    assert (tmp_path / "shop" / "interactions.csv").read_bytes() == before, "a folder that has it stays as it is"
    np.testing.assert_array_equal(read_world(tmp_path / "shop").attraction(3, 1), world.attraction(3, 1))


def test_a_folder_with_another_world_or_something_else_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path / "shop", SETTINGS, UNTIL)
    other = WorldSettings(**{**vars(SETTINGS), "seed": 9, "items": 31})
    with pytest.raises(UsageError, match=r"shop holds a world with another seed, items; name a new folder"):
        write_world(tmp_path / "shop", other, UNTIL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="mine is no empty folder and holds no world"):
        write_world(tmp_path / "mine", SETTINGS, UNTIL)
    with pytest.raises(UsageError, match=r"world\.json: No such file"):
        read_world(tmp_path / "mine")
    (tmp_path / "shop" / "world.json").write_text("{")
    with pytest.raises(UsageError, match=r"world\.json: is not what"):
        read_world(tmp_path / "shop")
