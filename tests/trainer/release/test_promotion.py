"""Aliases in a real registry: promotion, rollback, challengers, and concurrent moves."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tandem.contract.names import GATE_AGAINST_TAG, GATE_PASSED, GATE_TAG
from tandem.ops.model_registry import RegisteredVersion
from trainer.commands.cli import main
from trainer.core.errors import AliasMoved, PromotionError, RegistryError
from trainer.registry.registry import Registry
from trainer.release.promotion import Promotion

pytestmark = pytest.mark.process


@pytest.fixture
def versions(registry, settings, tmp_path) -> list[RegisteredVersion]:
    """Three versions without bundles, which aliases do not need."""
    made = []
    for number in range(3):
        with registry.start_run(f"run-{number}") as run:
            made.append(registry.register(run, str(tmp_path), model_version=f"m{number}", training_fingerprint="f"))
    return made


@pytest.fixture
def promotion(registry, settings) -> Promotion:
    return Promotion(registry, settings)


def judged(registry: Registry, version: RegisteredVersion, against: RegisteredVersion | None) -> RegisteredVersion:
    """The version with the tags that `validate` sets when it passes."""
    registry.tag(version, {GATE_TAG: GATE_PASSED, GATE_AGAINST_TAG: against.number if against else ""})
    return registry.find(version.number)


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_promotion_rollback_and_a_second_rollback(registry, promotion, versions) -> None:
    first, second, _ = versions
    moved = promotion.promote(judged(registry, first, None))
    assert (moved.champion, moved.previous) == (first, None)
    with pytest.raises(PromotionError, match="the champion before version 1 is unknown"):
        promotion.roll_back()
    moved = promotion.promote(judged(registry, second, first))
    assert (moved.champion, moved.previous) == (second, first)
    assert promotion.promote(registry.find("2")).previous == first  # it is the champion already

    moved = promotion.roll_back()
    assert (moved.champion, moved.previous) == (first, second)
    assert registry.champion() == first
    with pytest.raises(PromotionError, match="version 2 was rolled back at 20"):
        promotion.promote(judged(registry, second, first))
    moved = promotion.roll_back()
    assert (moved.champion, moved.previous) == (second, first)
    assert registry.find("2").tags["tandem.rolled_back_at"] == ""
    assert registry.find("1").tags["tandem.rolled_back_at"].startswith("20")


def test_roll_back_to_any_version(promotion, versions) -> None:
    with pytest.raises(PromotionError, match="nothing to roll back from"):
        promotion.roll_back(versions[2])
    promotion.promote(versions[0], force=True)
    with pytest.raises(PromotionError, match="version 1 is the champion already"):
        promotion.roll_back(versions[0])
    assert promotion.roll_back(versions[2]).previous == versions[0]


def test_a_rollback_after_another_program_moved_the_alias_is_refused(registry, promotion, settings, versions) -> None:
    promotion.promote(versions[0], force=True)
    promotion.promote(versions[1], force=True)
    registry.set_alias(settings.model_alias, versions[0].number)  # like `python -m inference_server rollback`
    with pytest.raises(PromotionError, match=r"another program moved the alias\. Give a version with --to VERSION"):
        promotion.roll_back()


def test_a_version_that_the_gate_has_not_passed_needs_force(registry, promotion, versions) -> None:
    with pytest.raises(PromotionError, match="the gate has not judged it"):
        promotion.promote(versions[0])
    registry.tag(versions[0], {GATE_TAG: "refused"})
    with pytest.raises(PromotionError, match="the gate refused it"):
        promotion.promote(registry.find("1"))
    with pytest.raises(PromotionError, match="the gate refused it"):
        promotion.set_challenger(registry.find("1"))
    assert registry.champion() is None
    assert promotion.promote(versions[0], force=True).champion == versions[0]


def test_a_verdict_against_another_champion_is_stale(registry, promotion, versions) -> None:
    first, second, third = versions
    promotion.promote(judged(registry, first, None))
    judged_second, judged_third = judged(registry, second, first), judged(registry, third, first)
    promotion.promote(judged_second)
    with pytest.raises(AliasMoved, match="against champion 1, but now there is champion 2: validate it again"):
        promotion.promote(judged_third)
    assert registry.champion() == second
    assert promotion.promote(judged(registry, third, second)).previous == second


def test_one_of_two_concurrent_promotions_fails(registry, settings, versions) -> None:
    first, second, third = versions
    Promotion(registry, settings).promote(judged(registry, first, None))
    rivals = [judged(registry, second, first), judged(registry, third, first)]

    def promote(version: RegisteredVersion) -> RegisteredVersion | None:
        try:
            return Promotion(Registry(settings), settings).promote(version).champion
        except AliasMoved:
            return None

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(promote, rivals))
    assert sorted(outcome is None for outcome in outcomes) == [False, True]
    assert registry.champion() in outcomes
    assert registry.aliased("champion-previous") == first


def test_a_move_by_another_machine_is_noticed(registry, settings, versions, monkeypatch) -> None:
    """Another machine, which does not see this machine's lock, moves the alias right after it."""
    promotion = Promotion(registry, settings)
    move = registry.set_alias

    def overtaken(alias: str, number: str) -> None:
        move(alias, number)
        move(alias, versions[2].number)

    monkeypatch.setattr(registry, "set_alias", overtaken)
    with pytest.raises(AliasMoved, match="another program moved the alias champion at the same moment"):
        promotion.promote(versions[0], force=True)


def test_the_challenger(registry, promotion, versions) -> None:
    first, second, _ = versions
    promotion.promote(first, force=True)
    with pytest.raises(PromotionError, match="cannot challenge itself"):
        promotion.set_challenger(first, force=True)
    promotion.set_challenger(judged(registry, second, first))
    assert registry.aliased("challenger") == second
    assert promotion.clear_challenger() == second
    assert registry.aliased("challenger") is None
    assert promotion.clear_challenger() is None


def test_the_commands_print_their_results(registry, settings, versions, capsys) -> None:
    assert main(["promote", "1", "--force"]) == 0
    assert last_line(capsys) == {"champion": "1", "previous": None}
    assert main(["promote", "2", "--force"]) == 0
    assert last_line(capsys) == {"champion": "2", "previous": "1"}
    assert main(["rollback"]) == 0
    output = capsys.readouterr().out
    assert "version 1 (m0) is the champion again, instead of version 2" in output
    assert json.loads(output.splitlines()[-1]) == {"champion": "1", "previous": "2"}
    assert main(["challenger", "3", "--force"]) == 0
    assert last_line(capsys) == {"challenger": "3"}

    assert main(["versions", "--limit", "2"]) == 0
    output = capsys.readouterr().out
    assert "m1  [champion-previous]  gate: not judged  rolled back at 20" in output
    listed = json.loads(output.splitlines()[-1])["versions"]
    assert [(version["registry_version"], version["aliases"]) for version in listed] == [
        ("3", ["challenger"]),
        ("2", ["champion-previous"]),
    ]

    assert main(["challenger", "--clear"]) == 0
    assert main(["challenger", "--clear", "1"]) == 2
    assert main(["challenger"]) == 2
    assert main(["rollback", "--to", "9"]) == 1
    assert "has no version '9'" in capsys.readouterr().err


def test_an_empty_registry_has_no_versions(registry, settings, capsys) -> None:
    assert registry.versions() == []
    assert main(["versions"]) == 0
    assert last_line(capsys) == {"versions": []}
    with pytest.raises(RegistryError, match="has no alias 'champion'"):
        registry.find("champion")
