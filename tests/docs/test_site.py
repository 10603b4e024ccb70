"""The documentation site builds strictly, holds every page, and loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from deploy.packaging import site

VERSION = "1.2.0"


def _file(page: Path) -> Path:
    """The file of the site that shows `page`."""
    return page.with_name("index.html") if page.name == "README.md" else page.with_suffix(".html")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The site, built beside an older version."""
    output = tmp_path_factory.mktemp("site")
    (output / "1.1.9").mkdir()
    (output / "1.1.9/sitemap.xml").touch()
    return site.build(output, VERSION)


@pytest.mark.process
def test_every_page_and_drawing_is_in_the_site(built) -> None:
    written = {path.relative_to(built) for path in built.rglob("*.html")} - {Path("404.html")}
    assert written == {_file(page) for page in site.pages()}
    assert (built / "benchmarks/results/request-path-latency.svg").is_file()


@pytest.mark.process
def test_every_page_can_be_searched(built) -> None:
    found = {entry["location"].partition("#")[0] for entry in json.loads((built / "search.json").read_text())["items"]}
    pages = {path.relative_to(built).as_posix() for path in built.rglob("*.html")} - {"404.html"}
    assert {location or "index.html" for location in found} == pages


@pytest.mark.process
def test_a_reader_fetches_nothing_from_elsewhere(built) -> None:
    loaded = {
        url
        for page in built.rglob("*.html")
        for url in re.findall(r'<(?:script|link|img|iframe)[^>]* (?:src|href)="(https?://[^"]+)"', page.read_text())
    }
    assert loaded == set()
    # The theme fetches Mermaid from a CDN unless a page has loaded it.
    loads = {path.relative_to(built) for path in built.rglob("*.html") if "/mermaid.js" in path.read_text()}
    draws = {page for page in site.pages() if "\n```mermaid\n" in (site.ROOT / page).read_text()}
    assert loads == {_file(page) for page in draws}
    assert 'globalThis["mermaid"]' in (built / "assets/mermaid.js").read_text()


@pytest.mark.process
def test_versions_are_listed_newest_first(built) -> None:
    assert json.loads((built.parent / "versions.json").read_text()) == [
        {"version": "1.2.0", "title": "1.2.0", "aliases": ["latest"]},
        {"version": "1.1.9", "title": "1.1.9", "aliases": []},
    ]
    assert "url=1.2.0/" in (built.parent / "index.html").read_text()


@pytest.mark.process
@pytest.mark.parametrize("link", ["gone.md", "other.md#gone"])
def test_a_broken_link_ends_the_build_and_is_named(tmp_path, capfd, link) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "README.md").write_text(f"# Start\n\n[there]({link})\n")
    (root / "other.md").write_text("# Other\n")
    (root / "mkdocs.yml").write_text(
        "site_name: small\ndocs_dir: pages\nsite_dir: site\nnav:\n  - README.md\n  - other.md\n"
    )
    with pytest.raises(subprocess.CalledProcessError):
        site.build(tmp_path / "output", VERSION, root)
    assert "README.md:3" in capfd.readouterr().err


def test_links_to_files_that_are_no_pages_become_paths() -> None:
    known = [Path("README.md"), Path("docs/data.md"), Path("docs/contributing/README.md")]

    def shown(text: str) -> str:
        return site.staged(text, Path("docs/data.md"), known).strip()

    assert shown("see [the API](../protos/tandem/v1/recommendation.proto).") == (
        "see the API (`protos/tandem/v1/recommendation.proto`)."
    )
    assert shown("[`Makefile`](../Makefile)") == "`Makefile`"
    assert shown("[start](../README.md#two) and [web](https://example.org)") == (
        "[start](../README.md#two) and [web](https://example.org)"
    )
    assert shown("[recipes](contributing/)") == "[recipes](contributing/README.md)"
    assert shown("[here](#part)") == "[here](#part)"


def test_links_in_code_stay_and_boxes_of_drawings_lead_nowhere() -> None:
    text = '```mermaid\nflowchart LR\n    a --> b\n    click a "trainer/data/prepare.py"\n```\n'
    assert site.staged(text, Path("README.md"), []) == "```mermaid\nflowchart LR\n    a --> b\n```\n"
    code = "```md\n[a](../Makefile)\n```\n"
    assert site.staged(code, Path("docs/data.md"), []) == code


def test_a_pattern_of_the_navigation_stands_for_the_pages_without_a_line_of_their_own() -> None:
    known = [Path("a/x.md"), Path("a/y.md"), Path("a/README.md")]
    config = "site_name: t\nnav:\n  - A:\n      - Start: a/README.md\n      - a/*.md\n"
    assert site.navigation(config, known) == (
        "site_name: t\nnav:\n  - A:\n      - Start: a/README.md\n      - a/x.md\n      - a/y.md\n"
    )
    with pytest.raises(ValueError, match=r"^mkdocs\.yml: the navigation lacks b\.md$"):
        site.navigation(config, [*known, Path("b.md")])
    with pytest.raises(ValueError, match=r"^mkdocs\.yml: a/README\.md is no page$"):
        site.navigation(config, [Path("a/x.md")])
