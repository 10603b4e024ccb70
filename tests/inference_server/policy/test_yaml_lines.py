"""YAML with lines: the values read, and refusals with their lines."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inference_server.policy.yaml_lines import YamlInvalid, read_yaml

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def as_tuples(value: object) -> object:
    match value:
        case list():
            return tuple(as_tuples(entry) for entry in value)
        case dict():
            return {key: as_tuples(entry) for key, entry in value.items()}
    return value


@given(value=values)
def test_what_was_written_is_read(value: object) -> None:
    assert read_yaml(yaml.safe_dump(value, allow_unicode=True).encode()).value == as_tuples(value)


def refusal(content: bytes) -> YamlInvalid | None:
    """The refusal of the content; None: it is read."""
    try:
        read_yaml(content)
    except YamlInvalid as error:
        return error
    return None


@given(content=st.binary(max_size=40) | st.text("ab1:-[]{},&*!?|>'\"#% \n\t<=~.", max_size=30).map(str.encode))
def test_anything_is_read_or_refused(content: bytes) -> None:
    if error := refusal(content):
        assert 1 <= error.line <= len(content) + 1
        assert error.problem


def test_lines_of_keys_and_entries() -> None:
    document = read_yaml(b"a:\n  b: 1\n  c:\n  - x\n  -\n    d: 2\ne: {f: [1,\n  2]}\n")
    assert document.value == {"a": {"b": 1, "c": ("x", {"d": 2})}, "e": {"f": (1, 2)}}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
        ("e",): 7,
        ("e", "f"): 7,
        ("e", "f", 0): 7,
        ("e", "f", 1): 8,
    }
    assert document.line_of(("a", "c", 1, "missing", 3)) == 6
    assert document.line_of(("nowhere",)) == 1


def test_an_empty_document_is_none() -> None:
    assert read_yaml(b"# only a comment\n").value is None


REFUSED = [
    (b"a: 1\nb: 2\na: 3\n", 3, "key 'a' comes a second time; the first is in line 1"),
    (b"x: {a: 1,\n  'a': 2}\n", 2, "key 'a' comes a second time"),
    (b"a: &n [1]\nb: *n\n", 2, "aliases such as \\*n"),
    (b"a: &n [*n]\n", 1, "aliases such as \\*n"),
    (b"a:\n  1: x\n", 2, "a key must be text, 1 is not; quote it"),
    (b"yes: x\n", 1, "a key must be text, yes is not; quote it"),
    (b"? [a]\n: x\n", 1, "a key must be text, this is not"),
    (b"a: 1\nb: [1\nc: 2\n", 3, "expected ',' or '\\]'"),
    (b"a: b: c\n", 1, "mapping values are not allowed here"),
    (b"a: 1\n--- \nb: 2\n", 2, "but found another document"),
    (b"a: 1\nb: 2024-99-99\n", 2, "'2024-99-99' is not a valid timestamp; quote it"),
    (b"a: !!int many\n", 1, "'many' is not a valid int; quote it"),
    (b"a: !!bool many\n", 1, "'many' is not a valid bool; quote it"),
    (b"a:\n  !!python/object/apply:os.system [echo]\n", 2, "tag .*os.system is not allowed"),
    (b"a: !!python/name:os.system\n", 1, "could not determine a constructor"),
    (b"a: !thing {}\n", 1, "tag !thing is not allowed"),
    (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
    (b"a: 1\nb: \x00\n", 2, "special characters are not allowed"),
    (b"[" * 5000, 1, "nested too deeply"),
]


@pytest.mark.parametrize(("content", "line", "problem"), REFUSED)
def test_what_is_refused_and_where(content: bytes, line: int, problem: str) -> None:
    with pytest.raises(YamlInvalid, match=problem) as caught:
        read_yaml(content)
    assert caught.value.line == line
