"""YAML with the line of every key. The only module that imports yaml.

PyYAML's own `safe_load` drops line numbers, accepts duplicate keys, and expands aliases, a few lines of which can make
gigabytes. So PyYAML only composes the nodes, and this module converts them to values. Keys must be text, and aliases
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""Keys of mappings and indexes of lists that lead to a value."""

_MAPPING: Final = "tag:yaml.org,2002:map"
_SEQUENCE: Final = "tag:yaml.org,2002:seq"


class YamlInvalid(Exception):
    """Text that is not YAML, or uses a part of YAML that is not allowed here. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML document."""

    value: Any
    """None, or nested dict (with str keys), tuple, str, int, float, bool, date, datetime, bytes."""
    lines: Mapping[Path, int]
    """Line of every key and of every list entry, counted from 1; the path of the document itself is ()."""

    def line_of(self, path: Path) -> int:
        """The line of a path, or of its nearest parent in the document."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def read_yaml(content: bytes) -> Document:
    """Reads one document. Raises YamlInvalid."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise YamlInvalid(content.count(b"\n", 0, error.start) + 1, f"not UTF-8: {error.reason}") from error
    try:
        return _read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlInvalid(1 if mark is None else mark.line + 1, error.problem or str(error)) from error
    except yaml.reader.ReaderError as error:
        raise YamlInvalid(text.count("\n", 0, error.position) + 1, f"{error.reason}: {error.character!r}") from error
    except RecursionError as error:
        raise YamlInvalid(1, "nested too deeply") from error


def _read(text: str) -> Document:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {(): 1}
        value = None if node is None else _value(loader, node, (), lines)
        return Document(value=value, lines=lines)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise YamlInvalid(event.start_mark.line + 1, f"aliases such as *{event.anchor} are not allowed")
        return super().compose_node(parent, index)


def _value(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING:
        return _mapping(loader, node, path, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
        for index, entry in enumerate(node.value):
            lines[*path, index] = entry.start_mark.line + 1
        return tuple(_value(loader, entry, (*path, index), lines) for index, entry in enumerate(node.value))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node)
    raise YamlInvalid(node.start_mark.line + 1, f"tag {node.tag} is not allowed")


def _mapping(loader: _Loader, node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(loader, key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = f"{key_node.value} is not; quote it" if isinstance(key_node, yaml.ScalarNode) else "this is not"
            raise YamlInvalid(line, f"a key must be text, {shown}")
        if key in values:
            raise YamlInvalid(line, f"key {key!r} comes a second time; the first is in line {lines[*path, key]}")
        lines[*path, key] = line
        values[key] = _value(loader, value_node, (*path, key), lines)
    return values


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError) as error:
        # Text that looks like a date or a number but is not valid: PyYAML raises the errors of `date` and `int`.
        kind = node.tag.rpartition(":")[2]
        raise YamlInvalid(node.start_mark.line + 1, f"{node.value[:100]!r} is not a valid {kind}; quote it") from error
