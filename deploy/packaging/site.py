"""Builds the documentation site from the pages of the repository: `python -m deploy.packaging.site`.

The pages are written to be read in the repository, where a link may lead to any file. `stage` copies them with the
same paths and turns links to files that are no pages into the path alone. Then Zensical builds them, strictly: a link
to a page or a heading that does not exist ends the build. Nothing is fetched, neither by the build nor by a reader's
browser: Mermaid comes from a package. Each version has a folder of its own, listed in `versions.json`, which the theme
reads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path("mkdocs.yml")
OUTPUT = Path(".tandem/site")
_PAGES = ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "deploy/README.md", "k8s/README.md")
_ASSETS = ("docs/**/*.css", "docs/**/*.png", "docs/**/*.svg", "benchmarks/results/*.svg")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^ *(```|~~~)")


def pages(root: Path = ROOT) -> list[Path]:
    """Paths of all pages, relative to `root`, in order."""
    return sorted({path.relative_to(root) for pattern in _PAGES for path in root.glob(pattern)})


def navigation(config: str, known: Iterable[Path]) -> str:
    """`config` with a line for each page in the place of a line with `*`.

    Raises:
        ValueError: a line of the navigation names no page, or a page is not in the navigation.
    """
    paths = {path.as_posix() for path in known}
    before, separator, nav = config.partition("\nnav:\n")
    entry = re.compile(r"( +- (?:[^:]+: )?)(\S+\.md)")
    own_line = {match[2] for match in map(entry.fullmatch, nav.splitlines()) if match} & paths
    remaining = set(paths)
    lines = []
    for line in nav.splitlines():
        match = entry.fullmatch(line)
        if match is None:
            lines.append(line)
            continue
        # A page with a line of its own does not appear again where a pattern matches it.
        matched = {match[2]} & paths or {page for page in remaining - own_line if Path(page).match(match[2])}
        if not matched and "*" not in match[2]:
            raise ValueError(f"{CONFIG}: {match[2]} is no page")
        remaining -= matched
        lines += [f"{match[1]}{page}" for page in sorted(matched)]
    if remaining:
        raise ValueError(f"{CONFIG}: the navigation lacks {', '.join(sorted(remaining))}")
    return f"{before}{separator}" + "\n".join(lines) + "\n"


def staged(text: str, page: Path, known: Sequence[Path], root: Path = ROOT) -> str:
    """`text` of `page` as the site shows it: without links to files that are no pages of the site."""
    linked = {path.as_posix() for path in known}

    def link(match: re.Match[str]) -> str:
        target, _, _ = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:") or not target:
            return match[0]
        path = Path(os.path.normpath(root / page.parent / target)).relative_to(root).as_posix()
        # What does not exist stays, for the build to refuse.
        if path in linked or not (root / path).exists():
            return match[0]
        if (root / path / "README.md").is_file():
            return match[0].replace(target, f"{target.rstrip('/')}/README.md")
        named = f"`{path}`"
        return named if match["text"].strip("`") in (path, target) else f"{match['text']} ({named})"

    lines = []
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        if fenced and re.match(r" *click \w+ ", line):
            continue  # a box of a drawing leads to a file of the repository
        lines.append(line if fenced else _LINK.sub(link, line))
    return "\n".join(lines) + "\n"


def stage(output: Path, root: Path = ROOT) -> None:
    """Write the pages, what they show, and the configuration for Zensical into `output`."""
    known = pages(root)
    shutil.rmtree(output / "pages", ignore_errors=True)
    for page in known:
        _write(output / "pages" / page, staged((root / page).read_text(), page, known, root))
    for asset in sorted({path for pattern in _ASSETS for path in root.glob(pattern)}):
        copy = output / "pages" / asset.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(asset, copy)
    _write(output / "pages/assets/mermaid.js", _mermaid().read_text())
    _write(output / "mkdocs.yml", navigation((root / CONFIG).read_text(), known))


def build(output: Path, version: str, root: Path = ROOT) -> Path:
    """Stage and build the site of `version` in `output`, beside the versions that are there; return its folder.

    Raises:
        subprocess.CalledProcessError: Zensical refused a page; it has printed which and where.
    """
    stage(output / "staged", root)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", "mkdocs.yml"]
    subprocess.run(command, cwd=output / "staged", check=True)
    for page in (output / "staged/site").rglob("*.html"):
        # 3.6 MB, of no use to a page without a drawing.
        if 'class="mermaid"' not in (text := page.read_text()):
            page.write_text(re.sub(r'<script src="[^"]*/mermaid\.js"></script>', "", text))
    site = output / version
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(output / "staged/site", site)
    versions = sorted((path.parent.name for path in output.glob("*/sitemap.xml")), key=_numbers, reverse=True)
    listed = [
        {"version": name, "title": name, "aliases": ["latest"] if name == versions[0] else []} for name in versions
    ]
    _write(output / "versions.json", json.dumps(listed, indent=2) + "\n")
    _write(output / "index.html", f'<!doctype html><meta http-equiv="refresh" content="0; url={versions[0]}/">\n')
    return site


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _mermaid() -> Path:
    """The drawing library for browsers, as the package mermaidx carries it."""
    package = distribution("mermaidx")
    return Path(str(package.locate_file("mermaidx/assets/mermaid.js")))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    print(f"the site: {build(ROOT / OUTPUT, release) / 'index.html'}")
