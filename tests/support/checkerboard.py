"""Data with a known answer, as a CSV for the table reader.

Users and items have a colour; every user chooses all items of their own colour, in random order. With the last choice
held out, the only unseen item of that colour is the right recommendation (after `get_checker_board` of implicit).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np


def write_checkerboard(directory: Path, *, num_users: int = 60, num_items: int = 24, seed: int = 0) -> Path:
    """Writes interactions.csv, items.jsonl and checkerboard.toml into a folder; returns the path of the TOML file."""
    generator = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "interactions.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["user", "item", "time"])
        for user in range(num_users):
            own = np.arange(user % 2, num_items, 2)
            for position, item in enumerate(generator.permutation(own)):
                writer.writerow([f"user-{user}", f"item-{item}", 1_700_000_000 + 60 * position])
    with (directory / "items.jsonl").open("w") as sink:
        for item in range(num_items):
            colour = "black" if item % 2 else "white"
            sink.write(json.dumps({"id": f"item-{item}", "title": f"A {colour} square", "tags": [colour]}) + "\n")
    config = directory / "checkerboard.toml"
    config.write_text(
        f"""
name = "checkerboard"
format = "table"

[interactions]
path = "{directory / "interactions.csv"}"
user = "user"
item = "item"
timestamp = "time"

[items]
path = "{directory / "items.jsonl"}"
id = "id"
title = "title"
categories = "tags"
"""
    )
    return config
