"""A program imports only what its own extra declares: a package that another package brings may be gone tomorrow."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parents[2]
_OURS: Final = {"tandem", "inference_server", "trainer", "feature_sync", "deploy", "benchmarks", "tests"}
_EXTRAS: Final = {
    "inference_server": ("server", "tracing", "kafka", "notify"),
    "trainer": ("trainer", "gpu", "spark", "dvc"),
    "feature_sync": ("sync", "kafka"),
    "protos/tandem/client": ("client",),
    "protos/tandem/contract": (),
}
"""The extras that a program may be installed with, besides the dependencies of the package itself."""


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(extras: tuple[str, ...]) -> set[str]:
    """Names of the distributions that the package and these extras declare."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    pending = list(extras)
    while pending:
        for requirement in project["optional-dependencies"][pending.pop()]:
            if own := re.match(r"tandem-recommender\[(.+)\]", requirement):
                pending += own[1].split(",")
            else:
                requirements.append(requirement)
    return {_normalised(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def _imported(folder: Path) -> dict[str, str]:
    """Top-level packages of others that the modules of a folder import, with one of the modules each."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                package = name.split(".")[0]
                if package not in _OURS and package not in sys.stdlib_module_names:
                    found.setdefault(package, str(path.relative_to(_ROOT)))
    return found


@pytest.mark.parametrize("program", _EXTRAS)
def test_a_program_imports_only_what_its_extras_declare(program: str) -> None:
    declared, distributions = _declared(_EXTRAS[program]), packages_distributions()
    undeclared = {
        package: module
        for package, module in _imported(_ROOT / program).items()
        if not {_normalised(name) for name in distributions.get(package, [])} & declared
    }
    assert undeclared == {}
