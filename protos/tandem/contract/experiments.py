"""Experiments: which arm answers a user, decided as Unleash decides it.

A layer is one feature flag. Its variants are the arms of the experiments that exclude each other, so that a user is in
one of them at most; users of different layers mix. A holdout is a flag that layers depend on: whom it holds out is in
no experiment of theirs.

The hash, the order of the rules and every comparison are those of Unleash, so that a front end which asks Unleash for
the flag gets the same variant. There is one difference: where Unleash draws a variant at random, because the request
has no value to be sticky by, the request is in no experiment here.

A table is made anew when a flag changes, and never changed itself: the requests of a worker read it without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd
from typing import Final

import mmh3

USER_ID: Final = "userId"
"""Name of the user's id among the values that flags are decided by."""
SCENARIO: Final = "scenario"
"""Name of the scenario that the request names. Every other name is a key of the request's context."""
SESSION_ID: Final = "sessionId"
DEFAULT_STICKINESS: Final = "default"
"""The user's id, else the session's."""
FULL_ROLLOUT: Final = 100

_ROLLOUT_SEED: Final = 0
_VARIANT_SEED: Final = 86028157


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The arm of an experiment that a request is in."""

    experiment: str
    arm: str
    model: str = ""
    """Registry alias or version that answers; empty: the server's own."""
    scenario: str = ""
    """Scenario whose policy answers; empty: the request's."""
    exposed: bool = True
    """Whether the arm answered. False: it could not, and the control arm did, so that the answer counts for neither."""


class Operator(StrEnum):
    """How a constraint compares a value of the request."""

    IN = "IN"
    NOT_IN = "NOT_IN"
    STR_CONTAINS = "STR_CONTAINS"
    STR_STARTS_WITH = "STR_STARTS_WITH"
    STR_ENDS_WITH = "STR_ENDS_WITH"
    NUM_EQ = "NUM_EQ"
    NUM_GT = "NUM_GT"
    NUM_GTE = "NUM_GTE"
    NUM_LT = "NUM_LT"
    NUM_LTE = "NUM_LTE"

    @property
    def is_numeric(self) -> bool:
        """Whether it compares numbers."""
        return self.startswith("NUM_")


@dataclass(slots=True)
class Caller:
    """What flags are decided by."""

    user_id: str
    context: Mapping[str, str]
    scenario: str = ""

    def value(self, name: str) -> str:
        """The value with a name; empty where the request has none."""
        if name == USER_ID:
            return self.user_id
        if name == SCENARIO and self.scenario:
            return self.scenario
        return self.context.get(name, "")

    def identifier(self, stickiness: str) -> str:
        """The value that a decision sticks to; empty where the request has none."""
        if stickiness == DEFAULT_STICKINESS:
            return self.user_id or self.context.get(SESSION_ID, "")
        return self.value(stickiness)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """A condition on one value of the request."""

    name: str
    operator: Operator
    values: tuple[str, ...] = ()
    """What the text operators compare with, in lower case where `ignores_case`."""
    number: float = 0.0
    """What the numeric operators compare with."""
    ignores_case: bool = False
    inverted: bool = False

    def holds(self, caller: Caller) -> bool:
        """Whether the request meets it. A request without the value meets NOT_IN and inverted constraints alone."""
        value = caller.value(self.name)
        return self._matches(value) != self.inverted

    def _matches(self, value: str) -> bool:
        match self.operator:
            case Operator.IN:
                return value != "" and value in self.values
            case Operator.NOT_IN:
                return value == "" or value not in self.values
        if value == "":
            return False
        if self.operator.is_numeric:
            return self._compares(value)
        text = value.lower() if self.ignores_case else value
        match self.operator:
            case Operator.STR_CONTAINS:
                return any(part in text for part in self.values)
            case Operator.STR_STARTS_WITH:
                return text.startswith(self.values)
            case _:
                return text.endswith(self.values)

    def _compares(self, value: str) -> bool:
        try:
            number = float(value)
        except ValueError:
            return False
        match self.operator:
            case Operator.NUM_EQ:
                return number == self.number
            case Operator.NUM_GT:
                return number > self.number
            case Operator.NUM_GTE:
                return number >= self.number
            case Operator.NUM_LT:
                return number < self.number
            case _:
                return number <= self.number


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One variant of a flag."""

    name: str
    weight: int
    """Its share, in the unit of its neighbours' weights."""
    assignment: Assignment | None = None
    """None: the users of the variant are in no experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants:
    """The variants that share the users of a flag, or of one of its strategies."""

    group: str
    """Salt of the hash."""
    stickiness: str
    variants: tuple[Variant, ...]
    total: int
    """Sum of the weights."""
    overrides: tuple[tuple[str, frozenset[str], Variant], ...] = ()
    """(name, values, variant): requests with one of the values have this variant, whatever the hash says."""

    def of(self, caller: Caller) -> Variant | None:
        """The request's variant; None where it has no value to be sticky by."""
        for name, values, variant in self.overrides:
            if caller.value(name) in values:
                return variant
        identifier = caller.identifier(self.stickiness)
        if not identifier or not self.total:
            return None
        target = normalised_hash(self.group, identifier, self.total, seed=_VARIANT_SEED)
        for variant in self.variants:
            target -= variant.weight
            if target <= 0:
                return variant
        raise AssertionError("the weights add up to less than their total")


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """One of the rules that turn a flag on; the first that holds decides."""

    constraints: tuple[Constraint, ...] = ()
    """All of them must hold."""
    user_ids: frozenset[str] | None = None
    """The users that it is on for; None: those of the rollout."""
    rollout: int | None = None
    """Share of the users in percent, 0 to 100; None: everybody, with or without a value to be sticky by."""
    stickiness: str = DEFAULT_STICKINESS
    group: str = ""
    """Salt of the hash."""
    variants: Variants | None = None
    """None: the flag's."""

    def holds(self, caller: Caller) -> bool:
        """Whether it turns the flag on."""
        for constraint in self.constraints:
            if not constraint.holds(caller):
                return False
        if self.user_ids is not None:
            return caller.user_id in self.user_ids
        if self.rollout is None:
            return True
        identifier = caller.identifier(self.stickiness)
        if not identifier:
            return False
        return normalised_hash(self.group, identifier, FULL_ROLLOUT, seed=_ROLLOUT_SEED) <= self.rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """A flag that another depends on."""

    flag: Flag
    enabled: bool = True
    """Whether it must be on, or must be off, as a holdout must be."""
    variants: frozenset[str] = frozenset()
    """Where it must be on: the variants that it must have; empty: any, or none."""

    def holds(self, caller: Caller) -> bool:
        """Whether the dependency is met."""
        strategy = self.flag.strategy(caller)
        if not self.enabled or strategy is None or not self.variants:
            return (strategy is not None) == self.enabled
        variant = self.flag.variant(caller, strategy)
        return variant is not None and variant.name in self.variants


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One feature flag."""

    name: str
    enabled: bool = True
    parents: tuple[Parent, ...] = ()
    """All of them must hold. They have no parents themselves."""
    strategies: tuple[Strategy, ...] = ()
    """Empty: on for everybody."""
    variants: Variants | None = None
    """For strategies without variants of their own."""

    def strategy(self, caller: Caller) -> Strategy | None:
        """The strategy that turns the flag on for a request; None: it is off."""
        if not self.enabled:
            return None
        for parent in self.parents:
            if not parent.holds(caller):
                return None
        if not self.strategies:
            return _EVERYBODY
        for strategy in self.strategies:
            if strategy.holds(caller):
                return strategy
        return None

    def variant(self, caller: Caller, strategy: Strategy) -> Variant | None:
        """The variant of a request that `strategy` turns the flag on for; None: it has none."""
        variants = strategy.variants or self.variants
        return None if variants is None else variants.of(caller)


_EVERYBODY: Final = Strategy()


@dataclass(frozen=True, kw_only=True)
class ExperimentTable:
    """All experiments that are in force together."""

    layers: Sequence[Flag] = ()
    """The flags whose variants are arms, by name."""
    fingerprint: str = ""
    """Identifies the content, hexadecimal; empty: there are no experiments."""
    canary: Flag | None = None
    """A new version on trial: a layer for the users who are in no experiment of models. None: there is none."""
    experiments_of_models: frozenset[str] = frozenset()
    """The experiments of which an arm names a model; filled in where there is a canary."""

    def with_canary(self, canary: Flag | None) -> ExperimentTable:
        """The same experiments beside a canary, or without one."""
        taken = frozenset() if canary is None else frozenset(arm.experiment for arm in self.arms if arm.model)
        return replace(self, canary=canary, experiments_of_models=taken)

    def assign(self, user_id: str, context: Mapping[str, str], scenario: str = "") -> tuple[Assignment, ...]:
        """The arms of a request, in the order of the layers; empty outside of every experiment.

        `user_id` is empty for an anonymous caller; `scenario` is the scenario that the request names.
        """
        if not self.layers and self.canary is None:
            return ()
        caller = Caller(user_id, context, scenario)
        assignments = tuple(
            assignment for layer in self.layers if (assignment := _assignment(layer, caller)) is not None
        )
        if self.canary is None:
            return assignments
        for assignment in assignments:
            # The control arm too: answered by the canary, it would be no control.
            if assignment.experiment in self.experiments_of_models:
                return assignments
        on_trial = _assignment(self.canary, caller)
        return assignments if on_trial is None else (*assignments, on_trial)

    @property
    def arms(self) -> tuple[Assignment, ...]:
        """Every arm once, in the order of the layers."""
        found = dict.fromkeys(
            variant.assignment
            for layer in self.layers
            for variants in (*(strategy.variants for strategy in layer.strategies), layer.variants)
            if variants is not None
            for variant in variants.variants
            if variant.assignment is not None
        )
        return tuple(found)

    @property
    def shares(self) -> dict[str, dict[str, int]]:
        """The weights of the arms of each experiment, without common factor. A strategy with one arm of an experiment
        is for testers, and says nothing of the shares; experiments of which two strategies say different shares are
        left out."""
        found: dict[str, dict[str, int]] = {}
        unclear: set[str] = set()
        for layer in self.layers:
            strategies = layer.strategies or (_EVERYBODY,)
            for variants in dict.fromkeys(strategy.variants or layer.variants for strategy in strategies):
                for experiment, weights in _weights(variants).items():
                    if found.setdefault(experiment, weights) != weights:
                        unclear.add(experiment)
        return {experiment: weights for experiment, weights in found.items() if experiment not in unclear}


def _weights(variants: Variants | None) -> dict[str, dict[str, int]]:
    """The weights of the arms by experiment, without common factor, of experiments with two arms or more."""
    weights: dict[str, dict[str, int]] = {}
    for variant in variants.variants if variants is not None else ():
        if variant.assignment is not None and variant.weight:
            weights.setdefault(variant.assignment.experiment, {})[variant.assignment.arm] = variant.weight
    return {
        experiment: {arm: weight // gcd(*arms.values()) for arm, weight in arms.items()}
        for experiment, arms in weights.items()
        if len(arms) > 1
    }


def _assignment(layer: Flag, caller: Caller) -> Assignment | None:
    """The arm of a layer that a request is in; None: it is in none."""
    strategy = layer.strategy(caller)
    variant = None if strategy is None else layer.variant(caller, strategy)
    return None if variant is None else variant.assignment


NO_EXPERIMENTS: Final = ExperimentTable()
"""Nobody is in an experiment."""


def normalised_hash(group: str, identifier: str, modulus: int, *, seed: int) -> int:
    """Unleash's hash: 1 to `modulus`, the same for the same group, identifier and seed."""
    # JSON can spell half a surrogate pair, which UTF-8 cannot. Never the text itself: mmh3 5.3 encodes it without
    # looking whether that succeeded, and ends the process.
    text = f"{group}:{identifier}".encode("utf-8", "surrogatepass")
    return mmh3.hash(text, seed, False) % modulus + 1
