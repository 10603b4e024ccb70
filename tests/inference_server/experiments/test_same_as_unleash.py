"""The table decides as the engine of Unleash's official clients does: on definitions and requests drawn at random."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from yggdrasil_engine.engine import UnleashEngine

from inference_server.experiments.table import make_table, plain_document
from tandem.contract.experiments import Caller, Operator

COUNTRIES = ["de", "fr", "it", "DE-by"]
STICKY_BY = ["default", "userId", "sessionId", "tenant"]


def constraint(draw: random.Random) -> dict[str, Any]:
    operator = draw.choice(list(Operator))
    made: dict[str, Any] = {
        "contextName": draw.choice(["userId", "country", "age", "scenario", "tenant", "sessionId"]),
        "operator": str(operator),
        "inverted": draw.random() < 0.3,
        "caseInsensitive": draw.random() < 0.3,
    }
    if operator.is_numeric:
        made["value"] = str(draw.choice([3, 5.5, -1]))
    else:
        fewest = 1 if operator.startswith("STR_") else 0
        made["values"] = draw.sample([*COUNTRIES, "home", "u1", "u", "t1", "D"], k=draw.randint(fewest, 4))
    return made


def variants(draw: random.Random, stickiness: str) -> list[dict[str, Any]]:
    weights = draw.choice([[1000], [500, 500], [334, 333, 333], [0, 1000], [999, 1, 0], [50, 50, 900]])
    return [
        {
            "name": f"v{index}",
            "weight": weight,
            "stickiness": stickiness,
            "payload": {"type": "json", "value": json.dumps({"experiment": "e", "arm": f"v{index}"})},
            "overrides": [{"contextName": "userId", "values": ["u1", "u7"]}] if draw.random() < 0.15 else [],
        }
        for index, weight in enumerate(weights)
    ]


def strategy(draw: random.Random) -> dict[str, Any]:
    stickiness = draw.choice(STICKY_BY)
    name = draw.choice(["flexibleRollout", "flexibleRollout", "flexibleRollout", "userWithId", "default"])
    return {
        "name": name,
        "parameters": {
            "flexibleRollout": {
                "rollout": str(draw.choice([0, 1, 5, 50, 99, 100])),
                "stickiness": stickiness,
                "groupId": draw.choice(["salt", "pepper"]),
            },
            "userWithId": {"userIds": "u1, u2,u3 , u44"},
            "default": {},
        }[name],
        "constraints": [constraint(draw) for _ in range(draw.choice([0, 0, 1, 2]))],
        "segments": [draw.randint(1, 2)] if draw.random() < 0.2 else [],
        "variants": variants(draw, draw.choice([stickiness, stickiness, draw.choice(STICKY_BY)]))
        if name == "flexibleRollout" and draw.random() < 0.6
        else [],
    }


def document(draw: random.Random) -> dict[str, Any]:
    parent = {
        "name": "parent",
        "enabled": draw.random() < 0.8,
        "strategies": [{**strategy(draw), "variants": []} for _ in range(draw.randint(0, 2))],
        "variants": [],
    }
    child = {
        "name": "layer",
        "enabled": draw.random() < 0.95,
        "strategies": [strategy(draw) for _ in range(draw.randint(0, 3))],
        "variants": variants(draw, draw.choice(STICKY_BY)) if draw.random() < 0.7 else [],
        "dependencies": [{"feature": "parent", "enabled": draw.random() < 0.5}] if draw.random() < 0.4 else [],
    }
    return {
        "version": 2,
        "features": [parent, child],
        "segments": [{"id": 1, "constraints": [constraint(draw)]}, {"id": 2, "constraints": []}],
    }


def caller(draw: random.Random) -> Caller:
    context = {}
    if draw.random() < 0.6:
        context["country"] = draw.choice(COUNTRIES)
    if draw.random() < 0.6:
        context["age"] = draw.choice(["3", "5.5", "7", "young", "1e1"])
    if draw.random() < 0.6:
        context["sessionId"] = f"s{draw.randint(0, 500)}"
    if draw.random() < 0.6:
        context["tenant"] = f"t{draw.randint(0, 50)}"
    return Caller(
        f"u{draw.randint(0, 5000)}" if draw.random() < 0.8 else "", context, draw.choice(["", "home", "detail"])
    )


def unleash_context(asks: Caller) -> dict[str, Any]:
    properties = {key: value for key, value in asks.context.items() if key != "sessionId"}
    if asks.scenario:
        properties["scenario"] = asks.scenario
    known = {"userId": asks.user_id, "sessionId": asks.context.get("sessionId", ""), "properties": properties}
    return {key: value for key, value in known.items() if value}


def sticky_by(parts: dict[str, Any]) -> set[str]:
    """What the decisions of a flag stick to."""
    found = {variant["stickiness"] for variant in parts["variants"]}
    for part in parts["strategies"]:
        found |= {variant["stickiness"] for variant in part["variants"]}
        if part["name"] == "flexibleRollout":
            found.add(part["parameters"]["stickiness"])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_same_variants_as_the_official_engine(seed: int) -> None:
    draw = random.Random(seed)
    num_compared = num_in_a_variant = 0
    for _ in range(60):
        written = document(draw)
        engine = UnleashEngine()
        engine.take_state(json.dumps(written))
        table = make_table(plain_document(written), locate=lambda _, __: "")
        sticky = set().union(*(sticky_by(flag) for flag in written["features"]))
        for _ in range(60):
            asks = caller(draw)
            if any(not asks.identifier(name) for name in sticky):
                continue  # a decision that Unleash would draw at random
            variant = engine.get_variant("layer", unleash_context(asks))
            assigned = table.assign(asks.user_id, asks.context, asks.scenario)
            expected = variant.variant.name if variant.variant.enabled else None
            assert [one.arm for one in assigned] == ([] if expected is None else [expected]), (
                json.dumps(written),
                asks,
            )
            num_compared += 1
            num_in_a_variant += expected is not None
    assert num_compared > 800
    assert num_in_a_variant > 150
