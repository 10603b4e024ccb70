"""A shop where each customer has one taste, and the customers can change from one window to the next."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tandem.contract.bundle import Bundle
from tandem.contract.names import EVENT_CODES
from tandem.contract.vocabulary import Vocabulary
from tests.support.tiny_bundle import CATEGORIES, TinySpec, build_tiny_bundle
from trainer.dataset.dataset import Catalogue, Dataset
from trainer.drift.windows import MICROSECONDS_OF_DAY, Span, Window

NUM_ITEMS = 200
NUM_TASTES = len(CATEGORIES)
FIRST_DAY = datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1_000_000
"""Microseconds since 1970; a Monday."""


@dataclass(frozen=True, kw_only=True)
class Customers:
    """Behaviour of a group of customers."""

    num_users: int = 300
    events_per_user: int = 6
    tastes: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Probability of each taste; item i has taste i % 4, which is its category."""
    constancy: float = 0.9
    """Share of a customer's choices that match their taste."""
    purchases: float = 0.2
    """Share of purchases among events; all other events are clicks."""
    first_hour: int = 8
    """First of the twelve hours over which the events of a day are spread."""
    prefix: str = "early"
    """Prefix of the users' ids."""


def tasteful_bundle(directory: Path) -> Bundle:
    """A champion whose vectors are close for items of the same taste."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((NUM_TASTES, 16))
    vectors = centres[np.arange(NUM_ITEMS) % NUM_TASTES] + 0.5 * rng.standard_normal((NUM_ITEMS, 16))
    return build_tiny_bundle(
        directory, TinySpec(model_version="tasteful", num_items=NUM_ITEMS, item_vectors=vectors.astype(np.float32))
    )


def events(customers: Customers, *, first_day: int, num_days: int, seed: int) -> list[tuple[str, int, int, str]]:
    """(user id, item row, microseconds, event type) of each event in the whole weeks of a window."""
    rng = np.random.default_rng(seed)
    rows = []
    weights = 1.0 / (1.0 + np.arange(NUM_ITEMS // NUM_TASTES))
    weights /= weights.sum()
    for user in range(customers.num_users):
        taste = rng.choice(NUM_TASTES, p=customers.tastes)
        week = rng.integers(num_days // 7)  # in which this customer is active
        for _ in range(customers.events_per_user):
            item_taste = taste if rng.random() < customers.constancy else rng.integers(NUM_TASTES)
            item = int(rng.choice(len(weights), p=weights)) * NUM_TASTES + int(item_taste)
            hour = customers.first_hour + 12 * rng.random()
            moment = FIRST_DAY + (first_day + 7 * week + rng.integers(7) + hour / 24) * MICROSECONDS_OF_DAY
            kind = "purchase" if rng.random() < customers.purchases else "click"
            rows.append((f"{customers.prefix}-{user:04}", item, int(moment), kind))
    return rows


def window(customers: Customers, *, first_day: int, num_days: int, seed: int) -> Window:
    """A window with the events of these customers alone."""
    rows = sorted(
        events(customers, first_day=first_day, num_days=num_days, seed=seed), key=lambda row: (row[0], row[2])
    )
    user_ids = sorted({row[0] for row in rows})
    item_ids = [f"item-{row}" for row in range(NUM_ITEMS)]
    counts = [sum(row[0] == user for row in rows) for user in user_ids]
    dataset = Dataset(
        catalogue=Catalogue(
            item_ids=item_ids,
            titles=item_ids,
            descriptions=[""] * NUM_ITEMS,
            categories=[[CATEGORIES[row % NUM_TASTES]] for row in range(NUM_ITEMS)],
            attributes=[{}] * NUM_ITEMS,
            vocabulary=Vocabulary.from_ids(item_ids),
            available=np.ones(NUM_ITEMS, dtype=np.bool_),
        ),
        user_ids=user_ids,
        user_features=[{}] * len(user_ids),
        feature_names=(),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        item_rows=np.array([row[1] for row in rows]),
        event_codes=np.array([EVENT_CODES[row[3]] for row in rows], dtype=np.uint8),
        pair_types=np.array([1 << EVENT_CODES[row[3]] - 1 for row in rows], dtype=np.uint8),
        event_times=np.array([row[2] for row in rows]),
        ratings=np.full(len(rows), np.nan, dtype=np.float32),
        weights=np.ones(len(rows), dtype=np.float32),
    )
    start = int(FIRST_DAY) + first_day * MICROSECONDS_OF_DAY
    return Window(dataset, Span(start, start + num_days * MICROSECONDS_OF_DAY))


def write_shop(directory: Path, recent: Customers) -> Path:
    """Four weeks of the usual customers and a week of `recent` ones, as files; returns the path of the TOML file."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = events(Customers(), first_day=0, num_days=28, seed=1) + events(recent, first_day=28, num_days=7, seed=2)
    with (directory / "events.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["user", "item", "time", "type"])
        writer.writerows((user, f"item-{item}", moment, kind) for user, item, moment, kind in rows)
    with (directory / "items.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["id", "category"])
        writer.writerows((f"item-{row}", CATEGORIES[row % NUM_TASTES]) for row in range(NUM_ITEMS))
    config = directory / "shop.toml"
    config.write_text(
        f"""
name = "shop"
format = "table"
folder = "{directory}"

[interactions]
path = "events.csv"
user = "user"
item = "item"
timestamp = "time"
timestamp_unit = "microseconds"
event_type = "type"

[items]
path = "items.csv"
id = "id"
categories = "category"
"""
    )
    return config
