"""The notebook runs on a small data set, and is committed without outputs."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/notebooks/explore.ipynb"


@pytest.fixture
def shop(tmp_path) -> Path:
    """40 users with ratings and times, and 30 items with a long tail, one of them without a title."""
    generator = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, 31)
    with (tmp_path / "ratings.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["user", "item", "stars", "time"])
        for user in range(40):
            for day, item in enumerate(generator.choice(30, 8, replace=False, p=shares / shares.sum())):
                writer.writerow([f"u{user}", f"i{item}", generator.integers(1, 6), 1_700_000_000 + 86_400 * day])
    with (tmp_path / "items.jsonl").open("w") as sink:
        for item in range(30):
            title = f"Thing {item}" if item else ""
            sink.write(json.dumps({"id": f"i{item}", "title": title, "tags": [f"shelf {item % 3}"]}) + "\n")
    config = tmp_path / "shop.toml"
    config.write_text(
        'name = "shop"\nformat = "table"\n\n[interactions]\npath = "ratings.csv"\nuser = "user"\nitem = "item"\n'
        'rating = "stars"\ntimestamp = "time"\n\n[items]\npath = "items.jsonl"\nid = "id"\ntitle = "title"\n'
        'categories = "tags"\n'
    )
    return config


@pytest.mark.process
def test_the_notebook_runs(shop, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DATASET", str(shop))
    monkeypatch.setenv("TANDEM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[2]), str(NOTEBOOK.parents[2] / "protos")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "40 users, 30 items, 320 interactions" in printed
    assert "density: 26.6667% of all (user, item)" in printed
    assert "100.0% of the interactions have a rating" in printed
    assert "2023-11-14 to 2023-11-21, 8 days with interactions" in printed
    assert "0.0% of the events have the same time" in printed
    assert "96.7% of the items have a title, 0.0% a description, 100.0% a category" in printed
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) == 6


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
