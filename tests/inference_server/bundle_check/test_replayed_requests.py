"""Logged requests answered anew: pools are those of the request path, at the user's state of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_server.bundle_check.replayed_requests import run_replay
from inference_server.core.errors import SettingsError
from tandem.contract.bundle import Bundle
from tandem.contract.errors import ReplayError
from tandem.contract.replayed import LoggedRequest, ReplayedOrders, read_orders, write_requests
from tests.inference_server.bundle_check.test_held_out_users import order_of
from tests.support.tiny_bundle import state_of


def replayed(
    bundle: Bundle, folder: Path, requests: list[LoggedRequest], *, policies: str = "", scenario: str = ""
) -> ReplayedOrders:
    write_requests(folder / "requests", requests)
    policies_file = folder / "policies.yaml" if policies else None
    if policies_file is not None:
        policies_file.write_text(policies)
    run_replay(
        bundle.directory,
        requests=folder / "requests",
        policies_file=policies_file,
        scenario=scenario,
        output=folder / "orders",
    )
    return read_orders(folder / "orders")


def request_of(user_id: str, history: list[str], num_items: int = 5) -> LoggedRequest:
    return LoggedRequest(user_id=user_id, state=state_of(history), context={"placement": "top"}, num_items=num_items)


def pools_of(orders: ReplayedOrders) -> list[list[str]]:
    return [
        [orders.item_ids[item] for item in orders.items[start:stop]]
        for start, stop in zip(orders.offsets, orders.offsets[1:], strict=False)
    ]


def test_each_request_is_answered_at_its_own_state(bundle: Bundle, tmp_path: Path) -> None:
    histories = [["item-1", "item-21"], ["item-2"], ["item-1", "item-21", "item-40"], ["item-9", "item-29"]]
    requests = [request_of(user_id, history) for user_id, history in zip("abab", histories, strict=True)]
    orders = replayed(bundle, tmp_path, requests)
    assert pools_of(orders) == [order_of(bundle, history)[:5] for history in histories]
    assert (orders.model_version, orders.exploration, orders.policy_fingerprint) == ("tiny-1", 0.0, "")
    assert not orders.degraded.any()


def test_a_policy_that_explores_gives_the_whole_pool(bundle: Bundle, tmp_path: Path) -> None:
    policies = "scenarios: {home: {exploration: 0.25, sources: {two_tower: 40, content_neighbours: 0}}}"
    requests = [request_of("a", ["item-1", "item-21"]), request_of("b", ["item-2"], num_items=3)]
    orders = replayed(bundle, tmp_path, requests, policies=policies, scenario="home")
    assert orders.exploration == 0.25
    assert orders.policy_fingerprint
    first, second = pools_of(orders)
    assert len(first) >= 40, "more than are shown"
    assert len(second) >= 40
    assert first[:5] == order_of(bundle, ["item-1", "item-21"])[:5]


def test_nothing_to_answer_is_an_empty_result(bundle: Bundle, tmp_path: Path) -> None:
    orders = replayed(bundle, tmp_path, [])
    assert np.array_equal(orders.offsets, [0])
    assert pools_of(orders) == []


def test_an_unknown_scenario_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--scenario shop: is not configured .*\(configured: none\)"):
        replayed(bundle, tmp_path, [], scenario="shop")


def test_an_unreadable_line_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "requests").write_text('{"user_id": "a"}\n')
    with pytest.raises(ReplayError, match="requests: line 1 is unreadable: 'state'"):
        run_replay(
            bundle.directory,
            requests=tmp_path / "requests",
            policies_file=None,
            scenario="",
            output=tmp_path / "orders",
        )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_holds_no_orders_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders").write_bytes(content)
    with pytest.raises(ReplayError, match="orders: holds no orders"):
        read_orders(tmp_path / "orders")
