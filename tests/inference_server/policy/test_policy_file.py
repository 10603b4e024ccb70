"""Policies: the content of a file, how scenarios inherit, how mistakes are reported, and when a file is read again."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from structlog.testing import capture_logs

from inference_server.core.errors import PoliciesInvalid, UnknownScenario
from inference_server.policy.policy import AttributePredicateConfig, Boost, Policy
from inference_server.policy.policy_file import Policies, PolicyFile, describe_policies, load_policies
from inference_server.request.policy_choices import policy_choices
from tests.support.waiting import wait_until

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy/policies.example.yaml"


CHOICES = policy_choices()
DEFAULT_SOURCES = CHOICES.model().model_dump()["sources"]


def written(folder: Path, text: str) -> Path:
    """Writes the folder's file of policies, with a rename, as operators should."""
    path = folder / "policies.yaml"
    beside = folder / "new"
    beside.write_text(text)
    beside.replace(path)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(PoliciesInvalid) as caught:
        load_policies(written(folder, text), CHOICES)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return [problem.removeprefix(f"{folder}/policies.yaml:") for problem in caught.value.problems]


class TestExample:
    def test_it_says_what_it_shows(self) -> None:
        policies = load_policies(EXAMPLE, CHOICES)
        assert policies.names == ("home", "checkout", "children", "after_purchase")
        assert policies.default == Policy(sources=DEFAULT_SOURCES, diversity=0.1)
        assert policies.policy("home") == Policy(
            sources=DEFAULT_SOURCES | {"popular": 20},
            diversity=0.3,
            exploration=0.05,
            max_per_category=4,
            category_caps={"Documentary": 1},
            boosts=(
                Boost(category="Comedy", add=0.5),
                Boost(attribute="release_year", min=1995, add=0.25),
            ),
        )
        assert policies.policy("children").attributes == (
            AttributePredicateConfig(name="rating", none_of=("R", "NC-17")),
        )
        assert policies.policy("after_purchase").content_weight == 0.6
        assert policies.fingerprint == hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()

    def test_it_mentions_every_key_of_a_policy_and_of_sources(self) -> None:
        text = EXAMPLE.read_text()
        for name in [*Policy.model_fields, *DEFAULT_SOURCES]:
            assert re.search(rf"^\s*{name}:", text, re.MULTILINE), name

    def test_values_said_to_be_the_default_are(self) -> None:
        said = re.findall(r"^    (\w+): (\S+) +# .*\(default\)$", EXAMPLE.read_text(), re.MULTILINE)
        assert {name: int(value) for name, value in said} == DEFAULT_SOURCES


class TestPage:
    TEXT = (EXAMPLE.parents[1] / "docs/policies.md").read_text()

    def test_its_example_is_a_file_of_policies(self, tmp_path: Path) -> None:
        examples = re.findall(r"^```yaml\n(.*?)^```", self.TEXT, re.MULTILINE | re.DOTALL)
        names = [load_policies(written(tmp_path, example), CHOICES).names for example in examples]
        assert names == [("home", "children"), ("home", "checkout")]

    def test_it_names_every_key(self) -> None:
        assert [name for name in Policy.model_fields if f"`{name}`" not in self.TEXT] == []


@pytest.mark.parametrize("model", [Boost, AttributePredicateConfig, Policy])
def test_every_key_says_what_it_does(model: type[BaseModel]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


class TestScenarios:
    def test_built_in(self) -> None:
        policies = Policies()
        assert policies.policy("") == Policy()
        assert policies.fingerprint == ""
        assert policies.names == ()
        with pytest.raises(UnknownScenario, match=r"^is not configured on this server \(configured: none\)$"):
            policies.policy("home")

    def test_an_unknown_one_is_told_what_there_is(self, tmp_path: Path) -> None:
        policies = load_policies(written(tmp_path, "scenarios: {b: {}, a: {}}"), CHOICES)
        with pytest.raises(LookupError, match=r"configured: b, a\)"):
            policies.policy("A")

    def test_sources_are_overridden_key_by_key_and_the_rest_whole(self, tmp_path: Path) -> None:
        policies = load_policies(
            written(
                tmp_path,
                """
default:
  sources: {two_tower: 50, trending: 7}
  category_caps: {a: 1, b: 2}
  exclude_categories: [x, y]
  content_weight: 0.4
  exclude_seen: false
scenarios:
  other:
    sources: {trending: 9}
    category_caps: {c: 3}
    exclude_categories: []
    content_weight: null
  same:
""",
            ),
            CHOICES,
        )
        other = policies.policy("other")
        assert other.sources == DEFAULT_SOURCES | {"two_tower": 50, "content_neighbours": 30, "trending": 9}
        assert other.category_caps == {"c": 3}
        assert other.exclude_categories == ()
        assert other.content_weight is None
        assert other.exclude_seen is False
        assert policies.policy("same") == policies.default

    @pytest.mark.parametrize("text", ["default: {}", "default:", "scenarios:", "default: {}\nscenarios: {}"])
    def test_nothing_said_is_the_built_in_policy(self, tmp_path: Path, text: str) -> None:
        policies = load_policies(written(tmp_path, text), CHOICES)
        assert policies.default == Policy(sources=DEFAULT_SOURCES)
        assert policies.names == ()
        assert policies.fingerprint

    def test_a_policy_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Policy().diversity = 1.0

    def test_description_has_every_policy(self) -> None:
        shown = describe_policies(load_policies(EXAMPLE, CHOICES))
        assert all(f'"{name}": {{' in shown for name in ("default", "home", "children", "after_purchase"))


MISTAKES = [
    (
        "default:\n  sources:\n    two_tower: 0",
        "3: default.sources.two_tower: input should be greater than or equal to 1",
    ),
    ("default:\n  sources: {popular: yes}", "2: default.sources.popular: input should be a valid integer (got True)"),
    ("default:\n  sources: {popular: 1001}", "2: default.sources.popular: input should be less than or equal to 1000"),
    ("default:\n  sources: {newest: 1}", "2: default.sources.newest: there is no such key"),
    ("default:\n  diversify: 1", "2: default.diversify: there is no such key"),
    ("defaults: {}", "1: defaults: there is no such key"),
    (
        "default: {}\n\nscenarios:\n  home:\n    diversity: 1.5",
        "5: scenarios.home.diversity: input should be less than",
    ),
    ("default: {exploration: 0.6}", "1: default.exploration: input should be less than or equal to 0.5"),
    ("default: {content_weight: -0.1}", "1: default.content_weight: input should be greater than or equal to 0"),
    ("default: {diversity: .nan}", "1: default.diversity: input should be a finite number"),
    ("default: {diversity: '0.5'}", "1: default.diversity: input should be a valid number (got '0.5')"),
    ("default: {ranker: ncf}", "1: default.ranker: input should be 'auto', 'onnx', 'blend' or 'none' (got 'ncf')"),
    ("default: {exclude_seen: 1}", "1: default.exclude_seen: input should be a valid boolean (got 1)"),
    ("default:\n  category_caps:\n    a: 0", "3: default.category_caps.a: input should be greater than or equal to 1"),
    ("default: {max_per_category: -1}", "1: default.max_per_category: input should be greater"),
    ("default:\n  exclude_categories: Horror", "2: default.exclude_categories: must be a list (got 'Horror')"),
    (
        "default:\n  exclude_categories:\n  - a\n  - 5",
        "4: default.exclude_categories.1: must be text; quote it (got 5)",
    ),
    ("default:\n  exclude_categories:\n  - ''", "3: default.exclude_categories.0: string should have at least 1"),
    ("default:\n  include_categories: [a]\n  exclude_categories: [b, a]", "1: default: every category of include_"),
    ("default:\n  objectives: {click: 0}", "2: default.objectives: needs a value above 0"),
    ("default:\n  objectives:\n    purchase: -1", "3: default.objectives.purchase: input should be greater than"),
    ("default:\n  objectives:\n    sale: 1", "3: default.objectives.sale: there is no such key"),
    ("default:\n  boosts:\n  - add: 1", "3: default.boosts.0: needs either category or attribute"),
    ("default:\n  boosts:\n  - {category: a, attribute: b, add: 1}", "3: default.boosts.0: needs either category or"),
    ("default:\n  boosts:\n  - {category: a}", "3: default.boosts.0.add: Field required"),
    (
        "default:\n  boosts:\n  - {category: a, min: 1, add: 1}",
        "3: default.boosts.0: any_of, min and max are conditions",
    ),
    ("default:\n  boosts:\n  - {attribute: a, add: 1}", "3: default.boosts.0: an attribute needs any_of, min or max"),
    ("default:\n  boosts:\n  - {attribute: a, min: 2, max: 1, add: 1}", "3: default.boosts.0: min 2 is above max 1"),
    ("default:\n  boosts:\n  - {category: a, add: .inf}", "3: default.boosts.0.add: input should be"),
    ("default:\n  attributes:\n  - name: a", "3: default.attributes.0: needs any_of, none_of, min or max"),
    ("default:\n  attributes:\n  - {name: '', min: 1}", "3: default.attributes.0.name: string should have at least 1"),
    ("scenarios:\n  - home", "1: scenarios: must be a mapping of keys to values"),
    ("scenarios:\n  home: 1", "2: scenarios.home: must be a mapping of keys to values (got 1)"),
    ("scenarios:\n  home:\n    sources:", "3: scenarios.home.sources: must be a mapping of keys to values (got None)"),
    ("scenarios:\n  'a b': {}", "2: scenarios.a b: string should match pattern"),
    ("scenarios:\n  default: {}", "2: scenarios.default: the default policy is `default` at the top"),
    ("- a", "1: must be a mapping of keys to values"),
    ("", "1: is empty"),
    ("# all gone", "1: is empty"),
    ("default:\n  diversity: 0.1\n  diversity: 0.2", "3: key 'diversity' comes a second time; the first is in line 2"),
    ("default: {\n", "2: "),
]


class TestMistakes:
    @pytest.mark.parametrize(("text", "told"), MISTAKES)
    def test_line_key_and_reason_are_told(self, tmp_path: Path, text: str, told: str) -> None:
        (problem,) = problems(tmp_path, text)
        assert problem.startswith(told)

    def test_all_are_told_at_once(self, tmp_path: Path) -> None:
        text = "default: {}\nscenarios:\n  a:\n    what: 1\n    exploration: 2\n    sources: 1\n  b: {ranker: 1}\n"
        assert [problem.split(": ")[:2] for problem in problems(tmp_path, text)] == [
            ["4", "scenarios.a.what"],
            ["5", "scenarios.a.exploration"],
            ["6", "scenarios.a.sources"],
            ["7", "scenarios.b.ranker"],
        ]

    def test_a_conflict_with_what_is_inherited_names_the_scenario(self, tmp_path: Path) -> None:
        text = "default: {exclude_categories: [a]}\nscenarios:\n  home: {include_categories: [a]}"
        (problem,) = problems(tmp_path, text)
        assert problem.startswith("3: scenarios.home: every category")

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.yaml", tmp_path):
            with pytest.raises(PoliciesInvalid, match=f"^{path}: cannot be read: "):
                load_policies(path, CHOICES)

    def test_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(PoliciesInvalid, match="has more than 262144 bytes"):
            load_policies(written(tmp_path, "#" * (256 * 1024 + 1)), CHOICES)


class TestPolicyFile:
    def test_a_bad_file_at_the_start_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(PoliciesInvalid):
            PolicyFile(written(tmp_path, "default: 1"), CHOICES)
        with pytest.raises(PoliciesInvalid):
            PolicyFile(tmp_path / "none.yaml", CHOICES)

    def test_without_a_file_there_is_the_built_in_policy_for_ever(self) -> None:
        file = PolicyFile(None, CHOICES)
        assert file.current == Policies()
        assert not file.refresh()
        assert file.last_refusal == ""

    def test_a_change_is_read_once(self, tmp_path: Path) -> None:
        file = PolicyFile(written(tmp_path, "default: {diversity: 0.1}"), CHOICES)
        assert not file.refresh()
        written(tmp_path, "default: {diversity: 0.25}")
        with capture_logs() as logs:
            assert file.refresh()
            assert not file.refresh()
        assert file.current.default.diversity == 0.25
        assert [line["event"] for line in logs] == ["policies_changed"]
        assert logs[0]["fingerprint"] == file.current.fingerprint

    def test_the_same_bytes_again_are_no_change(self, tmp_path: Path) -> None:
        file = PolicyFile(written(tmp_path, "default: {diversity: 0.1}"), CHOICES)
        before = file.current
        written(tmp_path, "default: {diversity: 0.1}")
        assert not file.refresh()
        assert file.current is before

    def test_a_bad_file_is_refused_once_and_the_old_policies_stay(self, tmp_path: Path) -> None:
        file = PolicyFile(written(tmp_path, "default: {diversity: 0.1}"), CHOICES)
        before = file.current
        path = written(tmp_path, "default:\n  diversity: 7")
        with capture_logs() as logs:
            assert not file.refresh()
            assert not file.refresh()
        assert file.current is before
        assert file.last_refusal.startswith(f"{path}:2: default.diversity: ")
        assert logs == [{"event": "policies_refused", "reason": file.last_refusal, "log_level": "warning"}]

        written(tmp_path, "default:\n  diversity: 8")
        with capture_logs() as logs:
            assert not file.refresh()
            assert [line["event"] for line in logs] == ["policies_refused"]

            written(tmp_path, "default:\n  diversity: 0.75")
            assert file.refresh()
            assert [line["event"] for line in logs] == ["policies_refused", "policies_changed"]
        assert file.current.default.diversity == 0.75
        assert file.last_refusal == ""

    def test_a_file_that_is_gone_is_refused_once_and_read_when_it_is_back(self, tmp_path: Path) -> None:
        path = written(tmp_path, "default: {diversity: 0.1}")
        file = PolicyFile(path, CHOICES)
        path.unlink()
        with capture_logs() as logs:
            assert not file.refresh()
            assert not file.refresh()
        assert [line["event"] for line in logs] == ["policies_refused"]
        assert "cannot be read" in file.last_refusal
        written(tmp_path, "default: {diversity: 0.5}")
        assert file.refresh()
        assert file.current.default.diversity == 0.5

    def test_a_link_that_moves_is_a_change(self, tmp_path: Path) -> None:
        for name, diversity in (("one", 0.1), ("two", 0.2)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "policies.yaml").write_text(f"default: {{diversity: {diversity}}}")
        link = tmp_path / "data"
        link.symlink_to("one")
        file = PolicyFile(link / "policies.yaml", CHOICES)
        (tmp_path / "data-new").symlink_to("two")
        (tmp_path / "data-new").replace(link)
        assert file.refresh()
        assert file.current.default.diversity == 0.2

    async def test_run_reads_changes_until_it_is_cancelled(self, tmp_path: Path) -> None:
        file = PolicyFile(written(tmp_path, "default: {diversity: 0.1}"), CHOICES)
        running = asyncio.create_task(file.run(poll_seconds=0.001))
        written(tmp_path, "default: {diversity: 9}")
        await asyncio.to_thread(wait_until, lambda: file.last_refusal != "", "a refusal")
        written(tmp_path, "default: {diversity: 0.3}")
        await asyncio.to_thread(wait_until, lambda: file.current.default.diversity == 0.3, "the new policy")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
