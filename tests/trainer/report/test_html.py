"""The report, read by a parser and, if there is one, by a browser."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.trainer.report.reports import HOSTILE, small_report
from trainer.report.html import report_html

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class _Page(HTMLParser):
    """Texts by the id of the enclosing element, figures by name, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: dict[str, list[str]] = {}
        self.figures: dict[str, dict] = {}
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._figure = ""
        self._element_id = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self._figure = attributes.get("data-figure", "")
        self._element_id = attributes.get("id", self._element_id)

    def handle_data(self, data) -> None:
        if self._figure:
            self.figures[self._figure] = json.loads(data)
            self._figure = ""
        elif self.tags and self.tags[-1] not in {"script", "style"}:
            self.text += data
            if data.strip():
                self.cells.setdefault(self._element_id, []).append(data.strip())


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(small_report())


def test_tables_and_figures_hold_the_numbers(page) -> None:
    parsed = _Page(page)
    heads = [f"{name}@10" for name in ("precision", "recall", "hr", "map", "mrr", "ndcg")]
    assert parsed.cells["metrics"][:8] == [*heads, "as served", "0.1000"]
    assert "1.0000" in parsed.cells["metrics"]
    assert parsed.cells["totals"][:4] == ["coverage@10", "gini@10", "as served", "0.7500"]
    assert parsed.cells["totals"][4:7] == ["popularity", "0.1000", "0.9000"]
    assert "+1.0000" in parsed.cells["differences"]
    assert "+1.0000 to +1.0000, p 0.0001" in parsed.cells["differences"]
    assert parsed.cells["segment-table"][:4] == ["cold users", "20 users", "warm users", "20 users"]
    assert parsed.cells["segment-table"][8:11] == ["as served", "1.0000", "1.0000 to 1.0000"]
    assert parsed.figures.keys() == {"learning", "segments", "index", "map"}
    assert parsed.figures["learning"]["data"][0]["y"] == [3.0, 1.5, 1.0, 0.75]
    assert parsed.figures["index"]["data"][0]["x"] == [10.0, 15.0]
    assert parsed.figures["segments"]["data"][0]["x"] == ["cold users", "warm users", "head items", "tail items"]
    assert parsed.figures["segments"]["data"][1]["y"] == [0.0] * 4
    assert parsed.cells["config"] == ["[fit]\nseed = 0"]


def test_external_text_is_escaped(page) -> None:
    parsed = _Page(page)
    assert HOSTILE in parsed.text
    assert "img" not in parsed.tags
    assert "<img src=x" not in parsed.figures["map"]["data"][0]["text"][0]
    assert parsed.tags.count("script") == len(parsed.figures) + 2


def test_the_page_needs_no_network(page) -> None:
    parsed = _Page(page)
    assert parsed.addresses == []
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1


def test_sections_without_measurements_are_left_out() -> None:
    bare = dataclasses.replace(small_report(), epochs=(), index_points=(), map_points=(), users=())
    parsed = _Page(report_html(bare))
    assert parsed.figures.keys() == {"segments"}
    assert "Example users" not in parsed.text


@pytest.mark.process
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_draws_every_figure(page, tmp_path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page)
    drawn = _dom(path)
    figures = re.findall(r'<div id="(\w+)" class="figure js-plotly-plot"', drawn)
    assert figures == ["learning", "segments", "index", "map"]
    assert drawn.count('class="main-svg"') >= len(figures)
    assert "<title>20260101-000000-000-abcdef12</title>" in drawn


def _dom(path: Path) -> str:
    """The document after its scripts ran, as Chromium prints it."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run([*command, profile, path.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout
