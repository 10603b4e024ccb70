"""From flag definitions to the table of experiments, with every problem in words.

A table is refused as a whole: half of it would move users from one arm to another.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from inference_server.core.errors import ExperimentsInvalid
from inference_server.experiments.definitions import (
    NOT_USED,
    STRATEGIES,
    ArmDefinition,
    ConstraintDefinition,
    DependencyDefinition,
    Document,
    FlagDefinition,
    StrategyDefinition,
    VariantDefinition,
)
from tandem.contract.experiments import (
    DEFAULT_STICKINESS,
    FULL_ROLLOUT,
    Assignment,
    Constraint,
    ExperimentTable,
    Flag,
    Operator,
    Parent,
    Strategy,
    Variant,
    Variants,
)

FULL_WEIGHT: Final = 1000
"""Sum of the weights of a flag's variants: they count thousandths."""
_NOT_OF_A_REQUEST: Final = ("appName", "environment", "remoteAddress", "currentTime")
_MAX_CHARACTERS: Final = 300

_Path = tuple[str | int, ...]
"""Keys and indexes from the flag to the value that is wrong."""
Locate = Callable[[int, _Path], str]
"""Where a part of the flag with an index is, for messages: file and line."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the arms of a table may name."""

    models: Collection[str] | None = None
    """Aliases, and numbers of versions; None: not known, and not checked."""
    scenarios: Collection[str] | None = None
    """None: not known, and not checked."""


NOTHING_KNOWN: Final = Known()


def make_table(document: Mapping[str, Any], *, locate: Locate, known: Known = NOTHING_KNOWN) -> ExperimentTable:
    """The table of a document of definitions, which `plain_document` has made.

    Raises ExperimentsInvalid, which names for each problem where it is, the flag, the field and what is allowed.
    """
    return _Builder(document, locate, known).table()


def plain_document(read: Any, *, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
    """The flags that `wanted` names, those they depend on, and the segments they use, without what decides nothing.

    Whatever is not of the shape of a document stays as it is, for `make_table` to refuse.
    """
    document = _plain(read)
    if not isinstance(document, dict):
        return {"features": document}
    flags = document.pop("features", [])
    for header in ("version", "query", "meta"):
        document.pop(header, None)
    if not isinstance(flags, list):
        return {**document, "features": flags}
    named = {index for index, flag in enumerate(flags) if wanted(_name(flag))}
    parents = {parent for index in named for parent in _named(flags[index], "dependencies", "feature")}
    features = [flag for index, flag in enumerate(flags) if index in named or _name(flag) in parents]
    segments = document.get("segments")
    if isinstance(segments, list):
        used = [
            number
            for flag in features
            for strategy in _parts(flag, "strategies")
            for number in _parts(strategy, "segments")
        ]
        document["segments"] = [part for part in segments if not isinstance(part, dict) or part.get("id") in used]
    return {**document, "features": features}


def _plain(value: Any, key: object = None) -> Any:
    """JSON without nulls, and without the keys that decide nothing."""
    if isinstance(value, Mapping):
        dropped = frozenset() if key in {"payload", "value", "parameters"} else NOT_USED
        return {name: _plain(part, name) for name, part in value.items() if part is not None and name not in dropped}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _name(flag: object) -> str:
    return str(flag.get("name", "")) if isinstance(flag, dict) else ""


def _parts(owner: object, key: str) -> list[Any]:
    parts = owner.get(key) if isinstance(owner, dict) else None
    return parts if isinstance(parts, list) else []


def _named(owner: object, key: str, name: str) -> Iterator[str]:
    for part in _parts(owner, key):
        if isinstance(part, dict) and isinstance(part.get(name), str):
            yield part[name]


class _Builder:
    """Builds one table, and collects every problem."""

    def __init__(self, document: Mapping[str, Any], locate: Locate, known: Known) -> None:
        self._document = document
        self._locate = locate
        self._known = known
        self._problems: list[str] = []
        self._index = -1
        self._name = ""
        self._segments: dict[int, Sequence[ConstraintDefinition]] = {}
        self._arms: dict[tuple[str, str], Assignment] = {}

    def table(self) -> ExperimentTable:
        document = self._read()
        self._segments = {segment.id: segment.constraints for segment in document.segments}
        definitions: dict[str, FlagDefinition] = {}
        flags: dict[str, Flag] = {}
        for index, definition in enumerate(document.features):
            self._index, self._name = index, definition.name
            if definition.name in definitions:
                self._report(("name",), "another flag has this name")
                continue
            definitions[definition.name] = definition
            flags[definition.name] = self._flag(definition)
        for index, definition in enumerate(document.features):
            self._index, self._name = index, definition.name
            parents = tuple(self._parents(definition, definitions, flags))
            if parents and definitions[definition.name] is definition:
                flags[definition.name] = replace(flags[definition.name], parents=parents)
        layers = [flags[name] for name in sorted(flags) if any(_assignments(flags[name]))]
        self._check_layers(layers, {definition.name: i for i, definition in enumerate(document.features)})
        if self._problems:
            raise ExperimentsInvalid(tuple(self._problems))
        in_order = {**self._document, "features": sorted(self._document["features"], key=_name)}
        content = json.dumps(in_order, sort_keys=True, default=str)
        fingerprint = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return ExperimentTable(layers=tuple(layers), fingerprint=fingerprint)

    def _read(self) -> Document:
        try:
            document = Document.model_validate(self._document)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                self._report_at(problem["loc"], _words(problem["type"], problem["msg"], problem["input"]))
            raise ExperimentsInvalid(tuple(self._problems)) from None
        for path in _unknown_keys(document, ()):
            self._report_at(path, "there is no such key")
        return document

    def _report_at(self, loc: _Path, problem: str) -> None:
        if loc[:1] == ("features",) and len(loc) > 1 and isinstance(loc[1], int):
            flag = self._document["features"][loc[1]]
            self._index = loc[1]
            self._name = str(flag.get("name", "")) if isinstance(flag, dict) else ""
            self._report(loc[2:], problem)
        else:
            self._index, self._name = -1, ""
            self._report(loc, problem)

    def _report(self, path: _Path, problem: str) -> None:
        where = self._locate(self._index, path)
        flag = self._name or (f"features.{self._index}" if self._index >= 0 else "")
        field = ".".join(map(str, path))
        text = ": ".join(part for part in (where, flag and f"flag {flag}", field, problem) if part)
        self._problems.append(text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}...")

    def _flag(self, definition: FlagDefinition) -> Flag:
        strategies = [
            self._strategy(definition, strategy, ("strategies", index))
            for index, strategy in enumerate(definition.strategies or ())
            if not strategy.disabled
        ]
        # Unleash does not send strategies that are disabled, and a flag whose strategies all are is off.
        enabled = definition.enabled and (bool(strategies) or not definition.strategies)
        return Flag(
            name=definition.name,
            enabled=enabled,
            strategies=tuple(strategies),
            variants=self._variants(definition.variants, definition.name, ("variants",)),
        )

    def _strategy(self, flag: FlagDefinition, definition: StrategyDefinition, at: _Path) -> Strategy:
        if definition.name not in STRATEGIES:
            self._report(
                (*at, "name"),
                f"{definition.name!r} cannot be decided by a request; use {', '.join(STRATEGIES)} with constraints",
            )
        group = str(definition.parameters.get("groupId", flag.name))
        stickiness = str(definition.parameters.get("stickiness", DEFAULT_STICKINESS))
        user_ids: frozenset[str] | None = None
        rollout: int | None = None
        if definition.name == "flexibleRollout":
            rollout = self._rollout(definition.parameters.get("rollout"), (*at, "parameters", "rollout"))
            self._check_name(stickiness, (*at, "parameters", "stickiness"))
        elif definition.name == "userWithId":
            ids = str(definition.parameters.get("userIds", "")).split(",")
            user_ids = frozenset(name for user_id in ids if (name := user_id.strip()))
        return Strategy(
            constraints=tuple(self._constraints(definition, at)),
            user_ids=user_ids,
            rollout=rollout,
            stickiness=stickiness,
            group=group,
            # As the official clients do it: variants of a strategy stick to what the strategy sticks to.
            variants=self._variants(definition.variants, group, (*at, "variants"), stickiness),
        )

    def _rollout(self, value: str | float | None, at: _Path) -> int:
        text = str(value if value is not None else "").strip()
        if text.isascii() and text.isdigit() and int(text) <= FULL_ROLLOUT:
            return int(text)
        self._report(at, f"must be a whole number of percent, 0 to {FULL_ROLLOUT} (got {reprlib.repr(value)})")
        return 0

    def _check_name(self, name: str, at: _Path) -> None:
        if name in _NOT_OF_A_REQUEST:
            self._report(
                at, f"{name} is not known of a request; use userId, sessionId, scenario or a key of its context"
            )
        elif name == "random":
            self._report(
                at, "random moves a user at every request; use default, userId, sessionId or a key of the context"
            )
        elif not name:
            self._report(at, "must not be empty; use default, userId, sessionId or a key of the context")

    def _constraints(self, strategy: StrategyDefinition, at: _Path) -> Iterator[Constraint]:
        for index, constraint in enumerate(strategy.constraints):
            yield self._constraint(constraint, (*at, "constraints", index))
        for index, segment in enumerate(strategy.segments):
            if segment not in self._segments:
                known = ", ".join(map(str, self._segments)) or "none"
                self._report((*at, "segments", index), f"there is no segment {segment} (there are: {known})")
            for position, constraint in enumerate(self._segments.get(segment, ())):
                yield self._constraint(constraint, (*at, "segments", index, "constraints", position))

    def _constraint(self, definition: ConstraintDefinition, at: _Path) -> Constraint:
        if definition.context_name in _NOT_OF_A_REQUEST:
            self._check_name(definition.context_name, (*at, "contextName"))
        operator = definition.known_operator
        if operator is None:
            allowed = ", ".join(Operator)
            self._report((*at, "operator"), f"{definition.operator!r} is not decided here; use one of {allowed}")
            operator = Operator.IN
        number = 0.0
        if operator.is_numeric:
            try:
                number = float(definition.value)
            except ValueError:
                self._report((*at, "value"), f"must be a number (got {reprlib.repr(definition.value)})")
        elif operator.startswith("STR_") and not definition.values:
            self._report((*at, "values"), "must not be empty")
        ignores_case = definition.case_insensitive and operator.startswith("STR_")
        return Constraint(
            name=definition.context_name,
            operator=operator,
            values=tuple(value.lower() if ignores_case else value for value in definition.values),
            number=number,
            ignores_case=ignores_case,
            inverted=definition.inverted,
        )

    def _variants(
        self, definitions: Sequence[VariantDefinition], group: str, at: _Path, stickiness: str = ""
    ) -> Variants | None:
        """`stickiness` empty: that of the first variant."""
        if not definitions:
            return None
        total = sum(definition.weight for definition in definitions)
        if total != FULL_WEIGHT:
            too_many = f"more than {FULL_WEIGHT} (100 %)"
            too_few = f"not {FULL_WEIGHT} (100 %): name what the others get, for example in a variant without payload"
            self._report(at, f"the weights add up to {total}, {too_many if total > FULL_WEIGHT else too_few}")
        if not stickiness:
            stickiness = definitions[0].stickiness
            self._check_name(stickiness, (*at, 0, "stickiness"))
        variants = []
        overrides: list[tuple[str, frozenset[str], Variant]] = []
        names: set[str] = set()
        arms: set[tuple[str, str]] = set()
        for index, definition in enumerate(definitions):
            here = (*at, index)
            if definition.name in names:
                self._report((*here, "name"), f"two variants are named {definition.name!r}; names differ")
            names.add(definition.name)
            assignment = self._assignment(definition, here)
            if assignment is not None:
                arm = (assignment.experiment, assignment.arm)
                if arm in arms:
                    self._report((*here, "payload"), f"two variants are the arm {arm[1]!r} of {arm[0]!r}; arms differ")
                arms.add(arm)
            variant = Variant(name=definition.name, weight=definition.weight, assignment=assignment)
            variants.append(variant)
            overrides += ((part.context_name, frozenset(part.values), variant) for part in definition.overrides)
        return Variants(
            group=group,
            stickiness=stickiness,
            variants=tuple(variants),
            total=total,
            overrides=tuple(overrides),
        )

    def _assignment(self, variant: VariantDefinition, at: _Path) -> Assignment | None:
        """The arm that a variant's payload names; None: it has no payload, and its users are in no experiment."""
        if variant.payload is None:
            return None
        at = (*at, "payload", "value")
        content: object = variant.payload.value
        if isinstance(content, str):
            try:
                content = json.loads(content)
            except ValueError as error:
                self._report(at, f'is no JSON ({error}); write {{"experiment": "...", "arm": "...", "model": "..."}}')
                return None
        try:
            arm = ArmDefinition.model_validate(content)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                words = _words(problem["type"], problem["msg"], problem["input"])
                if problem["type"] == "extra_forbidden":
                    words += f" (there are: {', '.join(ArmDefinition.model_fields)})"
                self._report((*at, *problem["loc"]), words)
            return None
        assignment = Assignment(
            experiment=arm.experiment, arm=arm.arm or variant.name, model=arm.model, scenario=arm.scenario
        )
        self._check_known(assignment, at)
        first = self._arms.setdefault((assignment.experiment, assignment.arm), assignment)
        if first != assignment:
            shown = f"model {first.model!r} and scenario {first.scenario!r}"
            self._report(at, f"the arm {assignment.arm!r} of {assignment.experiment!r} has {shown} elsewhere")
        return assignment

    def _check_known(self, arm: Assignment, at: _Path) -> None:
        models, scenarios = self._known.models, self._known.scenarios
        if arm.model and models is not None and arm.model not in models:
            known = ", ".join(sorted(models)) or "none: the server follows no registry"
            self._report((*at, "model"), f"there is no alias or version {arm.model!r} (aliases: {known})")
        if arm.scenario and scenarios is not None and arm.scenario not in scenarios:
            known = ", ".join(sorted(scenarios)) or "none"
            self._report((*at, "scenario"), f"there is no policy of scenario {arm.scenario!r} (configured: {known})")

    def _parents(
        self, definition: FlagDefinition, definitions: Mapping[str, FlagDefinition], flags: Mapping[str, Flag]
    ) -> Iterator[Parent]:
        for index, dependency in enumerate(definition.dependencies):
            at = ("dependencies", index)
            parent = definitions.get(dependency.feature)
            if parent is None:
                known = ", ".join(name for name in definitions if name != definition.name) or "none"
                self._report((*at, "feature"), f"there is no flag {dependency.feature!r} (there are: {known})")
            elif parent.dependencies or parent is definition:
                self._report((*at, "feature"), f"{dependency.feature!r} must not depend on a flag itself")
            else:
                self._check_parent_variants(dependency, flags[parent.name], at)
                yield Parent(
                    flag=flags[parent.name], enabled=dependency.enabled, variants=frozenset(dependency.variants)
                )

    def _check_parent_variants(self, dependency: DependencyDefinition, parent: Flag, at: _Path) -> None:
        known = {variant.name for variants in _variants_of(parent) for variant in variants.variants}
        for index, name in enumerate(dependency.variants):
            if name not in known:
                shown = ", ".join(sorted(known)) or "none"
                self._report((*at, "variants", index), f"{parent.name!r} has no variant {name!r} (it has: {shown})")

    def _check_layers(self, layers: Sequence[Flag], index_of: Mapping[str, int]) -> None:
        """Refuses layers whose users would be in arms that contradict each other."""
        layer_of: dict[str, str] = {}
        chooses: dict[str, str] = {}
        for layer in layers:
            self._index, self._name = index_of[layer.name], layer.name
            assignments = list(_assignments(layer))
            for experiment in dict.fromkeys(assignment.experiment for assignment in assignments):
                first = layer_of.setdefault(experiment, layer.name)
                if first != layer.name:
                    self._report((), f"experiment {experiment!r} is in flag {first} too; an experiment has one flag")
            for what in ("model", "scenario"):
                if any(getattr(assignment, what) for assignment in assignments):
                    first = chooses.setdefault(what, layer.name)
                    if first != layer.name:
                        self._report(
                            (),
                            f"overlaps with flag {first}: arms of both set the {what}, and a user may be in both; make "
                            "them variants of one flag",
                        )


def _variants_of(flag: Flag) -> Iterator[Variants]:
    for variants in (*(strategy.variants for strategy in flag.strategies), flag.variants):
        if variants is not None:
            yield variants


def _assignments(flag: Flag) -> Iterator[Assignment]:
    for variants in _variants_of(flag):
        for variant in variants.variants:
            if variant.assignment is not None:
                yield variant.assignment


def _unknown_keys(part: object, at: _Path) -> Iterator[_Path]:
    """The keys that a document has and that mean nothing here."""
    if isinstance(part, BaseModel):
        for key in part.model_extra or ():
            if key not in NOT_USED:
                yield (*at, key)
        for name, field in type(part).model_fields.items():
            yield from _unknown_keys(getattr(part, name), (*at, field.alias or name))
    elif isinstance(part, Iterable) and not isinstance(part, str | Mapping):
        for index, entry in enumerate(part):
            yield from _unknown_keys(entry, (*at, index))


def _words(kind: str, message: str, given: Any) -> str:
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "missing":
        return "is missing"
    if kind in {"model_type", "dict_type", "mapping_type"}:
        message = "must be a mapping of keys to values"
    elif kind in {"is_instance_of", "sequence_str", "list_type", "tuple_type"}:
        message = "must be a list"
    elif kind == "string_type":
        message = "must be text; quote it"
    return f"{message[0].lower()}{message[1:]} (got {reprlib.repr(given)})"
