"""The import graph of a source tree, folder by folder, parsed with `ast` without importing anything."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """An import of a module of the tree by another module of the tree, anywhere in the file and under any condition."""

    importer: str
    """Dotted name of the importing module."""

    imported: str
    """Dotted name of the module imported; for `from package import name`, the submodule if there is one."""

    line: int
    """Line of the statement in the importing file."""


@dataclass(frozen=True)
class SourceTree:
    """Python files under their dotted names."""

    files: Mapping[str, Path]

    @classmethod
    def under(cls, *import_roots: tuple[Path, Iterable[str]]) -> SourceTree:
        """Every .py file of the named folders; a file's dotted name is its path from the import root."""
        return cls(
            files={
                ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
                for root, folders in import_roots
                for folder in folders
                for path in sorted((root / folder).rglob("*.py"))
            }
        )

    def folder(self, module: str) -> str:
        """Dotted name of the folder that contains the module's file; for a package, the package itself."""
        return module if self.files[module].name == "__init__.py" else module.rpartition(".")[0]

    def imports(self) -> Iterator[Import]:
        """All imports of the tree's own modules, including imports under TYPE_CHECKING and inside functions."""
        for module, path in self.files.items():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for imported in self._imported(module, node):
                    if imported in self.files and imported != module:
                        yield Import(importer=module, imported=imported, line=node.lineno)

    def folder_imports(self) -> dict[tuple[str, str], list[Import]]:
        """(importing folder, imported folder) -> imports from the first folder to the second."""
        crossing: dict[tuple[str, str], list[Import]] = defaultdict(list)
        for found in self.imports():
            importer, imported = self.folder(found.importer), self.folder(found.imported)
            if importer != imported:
                crossing[importer, imported].append(found)
        return crossing

    def folder_cycles(self) -> list[list[str]]:
        """Edge-disjoint cycles of folders, found until none is left, each as the list of imports along it."""
        crossing = self.folder_imports()
        cycles = []
        while cycle := _find_cycle(crossing.keys()):
            steps = list(pairwise(cycle))
            cycles.append([self._sentence(crossing[step][0]) for step in steps])
            for step in steps:
                del crossing[step]
        return cycles

    def _sentence(self, found: Import) -> str:
        return f"{self.files[found.importer]}:{found.line} imports {found.imported}"

    def _imported(self, module: str, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if not isinstance(node, ast.ImportFrom):
            return []
        source = node.module or ""
        if node.level:
            package = self.folder(module).split(".")
            source = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])
        submodules = [f"{source}.{alias.name}" for alias in node.names]
        return [submodule if submodule in self.files else source for submodule in submodules]


def _find_cycle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """Nodes along a cycle, with the first node repeated at the end; empty if there is no cycle."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for start, end in edges:
        sorter.add(start, end)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle[::-1]  # graphlib follows the edges backwards
    return []
