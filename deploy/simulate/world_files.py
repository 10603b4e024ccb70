"""A world as a data set: interactions, items and users for `trainer prepare`; `world.json` makes the world again."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from deploy.simulate.errors import UsageError
from deploy.simulate.history import interactions
from deploy.simulate.settings import WorldSettings
from deploy.simulate.world import CATEGORIES, COUNTRIES, World, item_id, make_world, user_id

DATASET: Final = "shop.toml"
"""The file that `trainer prepare --dataset` takes."""
_SETTINGS: Final = "world.json"
_CONFIG: Final = """\
# A simulated shop (docs/simulate.md).
name = "simulated-shop"
format = "table"

[interactions]
path = "interactions.csv"
user = "user"
item = "item"
timestamp = "time"
timestamp_unit = "iso"
event_type = "action"
event_types = { view = "click", cart = "add_to_cart", buy = "purchase" }

[items]
path = "items.csv"
id = "item"
title = "title"
categories = "category"
attributes = { price = "price" }

[users]
path = "users.csv"
id = "user"
features = { country = "country" }
"""


def write_world(folder: Path, settings: WorldSettings, until: datetime) -> World:
    """Writes the data set of a world whose history ends at `until`. A folder that has it already stays as it is.

    Raises UsageError for a folder that holds another world, or anything else.
    """
    world = make_world(settings)
    path = folder / _SETTINGS
    if path.exists():
        differing = [name for name, value in asdict(_read_settings(path)).items() if value != asdict(settings)[name]]
        if differing:
            raise UsageError(f"{folder} holds a world with another {', '.join(differing)}; name a new folder")
        return world
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is no empty folder and holds no world; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(
        folder / "interactions.csv",
        ("user", "item", "action", "time"),
        (
            (user_id(row.user), item_id(row.item), row.type, (until - timedelta(seconds=row.seconds)).isoformat())
            for row in interactions(world)
        ),
    )
    _write_csv(
        folder / "items.csv",
        ("item", "title", "category", "price"),
        ((item_id(row), *described(world, row)) for row in range(settings.items)),
    )
    _write_csv(
        folder / "users.csv",
        ("user", "country"),
        ((user_id(row), COUNTRIES[world.countries[row]]) for row in range(settings.users)),
    )
    (folder / DATASET).write_text(_CONFIG, encoding="utf-8")
    # Last: a folder with this file is whole.
    path.write_text(json.dumps(asdict(settings), indent=2), encoding="utf-8")
    return world


def read_world(folder: Path) -> World:
    """The world that `write_world` wrote. Raises UsageError."""
    return make_world(_read_settings(folder / _SETTINGS))


def described(world: World, row: int) -> tuple[str, str, float]:
    """Title, category and price of an item."""
    category = CATEGORIES[world.item_categories[row]]
    return f"{category.capitalize()} {row}", category, float(world.prices[row])


def _read_settings(path: Path) -> WorldSettings:
    try:
        return WorldSettings(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; `python -m deploy.simulate world` writes a world") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: is not what `python -m deploy.simulate world` writes") from error


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
