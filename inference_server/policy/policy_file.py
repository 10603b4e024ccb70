"""The file of policies: an operator's decisions about answers, by scenario, in one YAML file that is reloaded when it
changes.

    default:                 # for requests that name no scenario; a missing key has its default value
      diversity: 0.2
    scenarios:
      home:                  # for requests with scenario "home": the default policy, except for what is written here
        sources: {popular: 20}

A scenario overrides `sources` key by key; it replaces any other value, for example a list, as a whole. Policies are a
file and not environment variables, because business rules change while the server runs, and other people change them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import structlog
from pydantic import BaseModel, Field, ValidationError

from inference_server.core.errors import PoliciesInvalid, UnknownScenario
from inference_server.policy.choices import Choices
from inference_server.policy.policy import Policy, StrictConfig
from inference_server.policy.yaml_lines import Document, YamlInvalid, read_yaml
from tandem.contract.whole_files import read_whole

_log = structlog.get_logger()

_MAX_FILE_BYTES: Final = 256 * 1024
"""Reading a file of this size takes about a second of processor time, during which requests wait for the core."""

_M = TypeVar("_M", bound=BaseModel)


_EXPECTED: Final = {
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "string_type": "text; quote it",
}
"""Pydantic's error types whose messages name Python types."""


class _File(StrictConfig):
    """The keys of a file. Each policy is validated separately, after a scenario's policy is merged with the default."""

    default: dict[str, Any] | None = None
    scenarios: (
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")], dict[str, Any] | None] | None
    ) = None


@dataclass(frozen=True, kw_only=True)
class Policies:
    """All policies of one file."""

    default: Policy = field(default_factory=Policy)
    scenarios: Mapping[str, Policy] = field(default_factory=dict)
    fingerprint: str = ""
    """SHA-256 of the file's bytes in hexadecimal; empty: the built-in policy."""

    def policy(self, scenario: str) -> Policy:
        """The policy of a scenario; empty: the default. Raises UnknownScenario."""
        if not scenario:
            return self.default
        try:
            return self.scenarios[scenario]
        except KeyError:
            known = ", ".join(self.scenarios) or "none"
            raise UnknownScenario(f"is not configured on this server (configured: {known})") from None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scenarios, in the order of the file."""
        return tuple(self.scenarios)


def load_policies(path: Path, choices: Choices) -> Policies:
    """Reads and validates a file; `choices` are the sources and rankers that it may name.

    Raises PoliciesInvalid, which names the line, the key and the error of every problem.
    """
    try:
        content = read_whole(path)
    except OSError as error:
        raise PoliciesInvalid((f"{path}: cannot be read: {error.strerror}",)) from error
    if len(content) > _MAX_FILE_BYTES:
        raise PoliciesInvalid((f"{path}: has more than {_MAX_FILE_BYTES} bytes",))
    try:
        document = read_yaml(content)
    except YamlInvalid as error:
        raise PoliciesInvalid((f"{path}:{error.line}: {error.problem}",)) from error
    if document.value is None:
        # An empty file is most likely half written: the policies in force are better than none.
        raise PoliciesInvalid((f"{path}:1: is empty; for the built-in policy write `default: {{}}`",))
    return _Validation(path, document, choices).policies(hashlib.sha256(content).hexdigest())


def scenario_names(path: Path) -> frozenset[str] | None:
    """The scenarios that a file names, whatever else is in it; None: it cannot be read now."""
    try:
        value = read_yaml(read_whole(path, max_bytes=_MAX_FILE_BYTES)).value
    except (OSError, YamlInvalid):
        return None
    scenarios = value.get("scenarios") if isinstance(value, dict) else None
    return frozenset(map(str, scenarios)) if isinstance(scenarios, dict) else frozenset()


def describe_policies(policies: Policies) -> str:
    """All policies in full, for people: JSON, by name, defaults included."""
    by_name = {"default": policies.default, **policies.scenarios}
    return json.dumps({name: policy.model_dump(mode="json") for name, policy in by_name.items()}, indent=2)


class _Validation:
    """Converts a document to policies, and collects every problem."""

    def __init__(self, path: Path, document: Document, choices: Choices) -> None:
        self._path = path
        self._document = document
        self._choices = choices
        self._problems: list[tuple[int, str]] = []

    def policies(self, fingerprint: str) -> Policies:
        file = self._validated(_File, self._document.value, ())
        if file is None:
            raise self._invalid()
        default = file.default or {}
        default_policy = self._policy(default, ("default",))
        if default_policy is None:
            # Its errors would be repeated for every scenario.
            raise self._invalid()
        policies: dict[str, Policy] = {}
        for name, overrides in (file.scenarios or {}).items():
            merged = _merged(default, overrides or {})
            if policy := self._policy(merged, ("scenarios", name)):
                policies[name] = policy
        if "default" in policies:
            self._report(("scenarios", "default"), "the default policy is `default` at the top, and has no other name")
        if self._problems:
            raise self._invalid()
        return Policies(default=default_policy, scenarios=policies, fingerprint=fingerprint)

    def _policy(self, keys: Mapping[str, Any], at: tuple[str, ...]) -> Policy | None:
        named_keys, other_keys = self._choices.split(keys)
        named = self._validated(self._choices.model, named_keys, at)
        policy = self._validated(Policy, other_keys, at)
        return None if named is None or policy is None else policy.model_copy(update=named.model_dump())

    def _validated(self, model: type[_M], value: Any, at: tuple[str, ...]) -> _M | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                path = (*at, *(part for part in problem["loc"] if part != "[key]"))
                self._report(path, _problem(problem["type"], problem["msg"], problem["input"]))
            return None

    def _report(self, path: tuple[str | int, ...], problem: str) -> None:
        keys = ".".join(str(part) for part in path)
        self._problems.append((self._document.line_of(path), f"{keys}: {problem}" if keys else problem))

    def _invalid(self) -> PoliciesInvalid:
        # Sorted by line, not by the declaration of the keys.
        in_order = sorted(self._problems, key=lambda problem: problem[0])
        return PoliciesInvalid(tuple(f"{self._path}:{line}: {problem}" for line, problem in in_order))


class PolicyFile:
    """The policies in force, and the file they come from."""

    def __init__(self, path: Path | None, choices: Choices) -> None:
        """Reads the file, which may name `choices`; None: always the built-in policy. Raises PoliciesInvalid."""
        self._path = path
        self._choices = choices
        self._seen = _stamp(path)
        self.current: Policies = Policies() if path is None else load_policies(path, choices)
        """The policies for requests that are admitted now."""
        self.last_refusal = ""
        """Why the current file is not in force; empty if it is."""

    def refresh(self) -> bool:
        """Reloads the file if it has changed. Returns whether different policies are in force now.

        If the file is refused or missing, the policies in force stay, and it is not read again until it changes.
        """
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._seen:
            return False
        # Taken before reading: a change during the read is found by the next call.
        self._seen = stamp
        try:
            policies = load_policies(self._path, self._choices)
        except PoliciesInvalid as error:
            self.last_refusal = str(error)
            _log.warning("policies_refused", reason=self.last_refusal)
            return False
        self.last_refusal = ""
        if policies.fingerprint == self.current.fingerprint:
            return False
        self.current = policies
        _log.info("policies_changed", fingerprint=policies.fingerprint, scenarios=policies.names)
        return True

    async def run(self, poll_seconds: float = 1.0) -> None:
        """Polls the file until it is cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            # In a thread: PyYAML takes tens of milliseconds for a page, and access to a file system may hang.
            await asyncio.to_thread(self.refresh)


def _stamp(path: Path | None) -> tuple[int, int, int, int] | None:
    """Metadata that changes with the file; None if it cannot be read. Follows symbolic links, which Kubernetes
    swaps."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _merged(default: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**default, **overrides}
    ours, theirs = default.get("sources"), overrides.get("sources")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged["sources"] = {**ours, **theirs}
    return merged


def _problem(kind: str, message: str, given: Any) -> str:
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind in {"missing", "value_error"}:
        return message.removeprefix("Value error, ")
    if kind in _EXPECTED:
        message = f"must be {_EXPECTED[kind]}"
    return f"{message[0].lower()}{message[1:]} (got {reprlib.repr(given)})"
