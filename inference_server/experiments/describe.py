"""A table of experiments for people."""

from __future__ import annotations

import json
from typing import Any

from tandem.contract.experiments import FULL_ROLLOUT, ExperimentTable, Flag, Strategy, Variants


def describe_table(table: ExperimentTable) -> str:
    """Layers, strategies and arms with their shares: JSON. Users without an arm are shown as such."""
    return json.dumps({"fingerprint": table.fingerprint, "layers": [_layer(layer) for layer in table.layers]}, indent=2)


def _layer(layer: Flag) -> dict[str, Any]:
    parents = [f"{parent.flag.name} {'on' if parent.enabled else 'off'}" for parent in layer.parents]
    strategies = layer.strategies or (Strategy(),)
    return {
        "flag": layer.name,
        "enabled": layer.enabled,
        **({"only_with": parents} if parents else {}),
        "strategies": [_strategy(strategy, layer) for strategy in strategies],
    }


def _strategy(strategy: Strategy, layer: Flag) -> dict[str, Any]:
    variants = strategy.variants or layer.variants
    who: dict[str, Any] = {"percent_of_users": FULL_ROLLOUT if strategy.rollout is None else strategy.rollout}
    if strategy.user_ids is not None:
        who = {"user_ids": sorted(strategy.user_ids)}
    return {
        **who,
        "sticky_by": strategy.stickiness,
        "num_constraints": len(strategy.constraints),
        "arms": [] if variants is None else _arms(variants),
    }


def _arms(variants: Variants) -> list[dict[str, Any]]:
    return [
        {"variant": variant.name, "percent": 100 * variant.weight / variants.total}
        | (
            {"experiment": None}
            if (arm := variant.assignment) is None
            else {"experiment": arm.experiment, "arm": arm.arm, "model": arm.model, "scenario": arm.scenario}
        )
        for variant in variants.variants
    ]
