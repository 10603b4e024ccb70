"""Files, commands and settings that the documentation names exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from deploy.packaging import bundle_page, settings_page

ROOT = Path(__file__).resolve().parents[2]
STAGES = "inference_server/request/stages/"
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks/results").glob("*.md"),
        ROOT / "deploy/README.md",
        ROOT / "k8s/README.md",
    ]
)


def _box_paths() -> list[str]:
    return re.findall(r'click \w+ "([^"]+)"', README)


def test_every_path_named_exists() -> None:
    missing: dict[str, list[str]] = {}
    for page in PAGES:
        # The links in a diff are those of the page that the diff changes.
        text = re.sub(r"^```diff$.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
        quoted = re.findall(r"`([\w./-]+/[\w./-]*)`", text)
        named = [path for path in quoted if path.split("/")[0] in _top_level()]
        broken = [target for target in linked if not (page.parent / target).exists()]
        broken += [path for path in named if not (ROOT / path).exists()]
        if broken:
            missing[str(page.relative_to(ROOT))] = broken
    assert missing == {}


def test_every_box_of_the_pictures_names_an_existing_file() -> None:
    paths = _box_paths()
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    labels = re.findall(r'\w+[\[(]+"([\w./]+\.py)<br/>', README)
    assert sorted(label for label in labels if not any(path.endswith(label) for path in paths)) == []


def test_every_make_command_shown_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"run", "test", "smoke"} <= shown <= targets


def test_the_stages_of_the_picture_are_the_calls_of_the_pipeline() -> None:
    calls = _stages_in_order_of_evaluation()
    boxes = {box: Path(path).stem for box, path in _request_boxes().items()}
    assert set(calls) == set(boxes.values()), "the pipeline calls every stage and nothing else"
    modules = {path.stem for path in (ROOT / STAGES).glob("*.py")} - {"__init__"}
    assert modules == set(boxes.values())
    arrows = re.findall(r"^ *(\w+) -->(?:\|[^|]*\|)? *(\w+)", README, re.MULTILINE)
    between_stages = [(boxes[start], boxes[end]) for start, end in arrows if start in boxes and end in boxes]
    assert len(between_stages) >= len(boxes)
    for earlier, later in between_stages:
        assert later in calls[calls.index(earlier) :], f"{earlier} --> {later}"


def _stages_in_order_of_evaluation() -> list[str]:
    """Names of the functions that `Pipeline.answers` calls, in the order of evaluation: arguments first."""
    module = ast.parse((ROOT / "inference_server/request/pipeline.py").read_text())
    (pipeline,) = [node for node in module.body if isinstance(node, ast.ClassDef)]
    (answers,) = [node for node in pipeline.body if getattr(node, "name", "") == "answers"]

    def calls(node: ast.AST) -> list[str]:
        inner = [name for child in ast.iter_child_nodes(node) for name in calls(child)]
        return [*inner, node.func.id] if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else inner

    # ast visits `async for target in call` in the order of the text: target, call, body.
    return calls(answers)


def _request_boxes() -> dict[str, str]:
    clicks = re.findall(r'click (\w+) "([^"]+)"', README)
    return {box: path for box, path in clicks if path.startswith(STAGES)}


def test_the_settings_page_is_what_the_settings_say() -> None:
    assert (ROOT / settings_page.PAGE).read_text() == settings_page.settings_page()


def test_the_bundle_page_is_what_the_table_of_files_says() -> None:
    assert (ROOT / bundle_page.PAGE).read_text() == bundle_page.bundle_page()


def test_changelog_begins_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


def test_ci_calls_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script[-1] == "make test"


def _top_level() -> set[str]:
    # Without .tandem, where programs write: it is not part of the project.
    return {path.name for path in ROOT.iterdir()} - {".tandem"}
