"""Selection and answer, on a real model: order, boosts, caps, diversity, exploration, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Boost, Policy
from inference_server.request.flow.types import Columns, Ranked, Selection, User
from inference_server.request.stages.answer import answer
from inference_server.request.stages.select import select
from tests.inference_server.request.requests_at_stages import admitted, user_with
from tests.support.tiny_bundle import state_of

HISTORY = state_of(["item-20", "item-21", "item-22", "item-23", "gone"])


def ranked(
    model: ServingModel,
    users: list[User],
    rows: Sequence[int] = (9, 4, 7, 2),
    scores: Sequence[float] = (0.5, 0.9, 0.5, 0.5),
    source: Source = Source.RETRIEVED,
) -> Ranked:
    """Candidates, three of which have equal scores."""
    table = np.tile(np.array(scores, dtype=np.float32), (len(users), 1))
    name = "popular" if source is Source.POPULAR else "two_tower"
    return Ranked(
        model=model,
        users=users,
        source=source,
        rows=np.tile(np.array(rows), (len(users), 1)),
        scores=table,
        columns=[Columns(name, 0, len(rows))],
        is_ordered=source is Source.POPULAR,
        parts=((name, table),),
    )


def selection_for(model: ServingModel, *args: Any, source: Source = Source.RETRIEVED, **fields: Any) -> Selection:
    return select([ranked(model, [user_with(admitted(model, **fields), HISTORY)], *args, source=source)])[0]


def answers_of(selection: Selection) -> list[Answer]:
    return [answered.answer for answered in answer([selection])]


def shown(selection: Selection, user_index: int = 0) -> list[int]:
    rows: list[int] = selection.chosen[user_index].rows.tolist()
    return rows


class TestOrder:
    async def test_equal_scores_are_ordered_by_row(self, model: ServingModel) -> None:
        selection = selection_for(model)
        assert shown(selection) == [4, 2, 7, 9]
        assert selection.chosen[0].scores.tolist() == pytest.approx([0.9, 0.5, 0.5, 0.5])

    async def test_popular_items_keep_their_order(self, model: ServingModel) -> None:
        assert shown(selection_for(model, source=Source.POPULAR)) == [9, 4, 7, 2]

    async def test_no_more_than_asked_for(self, model: ServingModel) -> None:
        assert shown(selection_for(model, num_items=2)) == [4, 2]

    async def test_cells_without_a_candidate_are_not_shown(self, model: ServingModel) -> None:
        assert shown(selection_for(model, [9, 4, 7, 2], [0.1, -np.inf, 0.2, -np.inf])) == [7, 9]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    async def test_a_score_that_is_not_finite_never_leaves_the_server(self, model: ServingModel, value: float) -> None:
        users = [user_with(admitted(model), HISTORY) for _ in range(2)]
        candidates = ranked(model, users)
        candidates.scores[0] = [0.1, value, 0.2, -np.inf]
        selection = select([candidates])[0]
        assert shown(selection) == [7, 9]
        assert shown(selection, 1) == [4, 2, 7, 9]
        first, second = answers_of(selection)
        assert first.degraded_reasons == (Degraded.SCORES_NOT_FINITE,)
        assert second.degraded_reasons == ()
        assert np.isfinite(first.scores).all()

    async def test_boosts_are_in_units_of_the_finite_scores(self, model: ServingModel) -> None:
        boosted = Policy(boosts=(Boost(category="comedy", add=1.0),))  # row 9
        users = [user_with(admitted(model, policy=boosted))]
        selection = select([ranked(model, users, scores=(0.1, np.inf, 0.3, -np.inf))])[0]
        assert shown(selection) == [7, 9]
        assert selection.chosen[0].scores.tolist() == pytest.approx([0.3, 0.2])

    async def test_without_any_finite_score_nothing_is_shown(self, model: ServingModel) -> None:
        selection = selection_for(model, [9, 4], [np.nan, np.inf])
        assert shown(selection) == []
        assert answers_of(selection)[0].degraded_reasons == (Degraded.SCORES_NOT_FINITE,)

    async def test_everyone_in_a_batch_has_their_own_policy(self, model: ServingModel) -> None:
        users = [
            user_with(admitted(model)),
            user_with(admitted(model, policy=Policy(boosts=(Boost(category="comedy", add=50.0),)))),
            user_with(admitted(model, num_items=1)),
        ]
        selection = select([ranked(model, users)])[0]
        assert [shown(selection, user_index) for user_index in range(3)] == [[4, 2, 7, 9], [9, 4, 2, 7], [4]]


class TestBoosts:
    async def test_a_category_is_moved_up_by_standard_deviations(self, model: ServingModel) -> None:
        selection = selection_for(model, policy=Policy(boosts=(Boost(category="western", add=3.0),)))
        # One row in four is a western: here, row 2.
        assert shown(selection)[0] == 2
        unit = np.array([0.5, 0.9, 0.5, 0.5], dtype=np.float32).std()
        assert selection.chosen[0].scores[0] == pytest.approx(0.5 + 3.0 * unit)

    async def test_several_boosts_add_up_and_move_down(self, model: ServingModel) -> None:
        boosts = (Boost(category="drama", add=-1.0), Boost(category="drama", add=-1.5))
        selection = selection_for(model, policy=Policy(boosts=boosts))
        assert shown(selection)[-1] == 4
        answered = answers_of(selection_for(model, policy=Policy(boosts=boosts), explain=True))[0]
        assert answered.reasons is not None
        unit = float(np.array([0.5, 0.9, 0.5, 0.5], dtype=np.float32).std())
        assert answered.reasons[-1].score_parts == {
            "two_tower": pytest.approx(0.9),
            "boost": pytest.approx(-2.5 * unit, rel=1e-4),
        }

    async def test_a_boost_that_names_nothing_here_changes_nothing(self, model: ServingModel) -> None:
        boosts = (Boost(category="no such", add=9.0), Boost(attribute="no such", min=1.0, add=9.0))
        assert shown(selection_for(model, policy=Policy(boosts=boosts))) == [4, 2, 7, 9]


class TestCaps:
    ROWS = (0, 4, 8, 1, 5, 2, 3)  # three dramas, two comedies, a western, a noir
    SCORES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

    async def test_most_per_category(self, model: ServingModel) -> None:
        assert shown(selection_for(model, self.ROWS, self.SCORES, policy=Policy(max_per_category=1))) == [0, 1, 2, 3]

    async def test_a_named_cap_overrules_the_general_one(self, model: ServingModel) -> None:
        policy = Policy(max_per_category=1, category_caps={"drama": 2})
        assert shown(selection_for(model, self.ROWS, self.SCORES, policy=policy)) == [0, 4, 1, 2, 3]

    async def test_others_are_not_capped_by_a_named_cap(self, model: ServingModel) -> None:
        policy = Policy(category_caps={"drama": 1})
        assert shown(selection_for(model, self.ROWS, self.SCORES, policy=policy)) == [0, 1, 5, 2, 3]


class TestDiversity:
    async def test_none_at_all_is_the_order_by_score(self, model: ServingModel) -> None:
        assert shown(selection_for(model, diversity=0.0, policy=Policy(diversity=1.0))) == [4, 2, 7, 9]

    async def test_all_of_it_takes_what_is_least_like_what_is_shown(self, model: ServingModel) -> None:
        rows, scores = list(range(50)), np.linspace(1, 0, 50).tolist()
        order = shown(selection_for(model, rows, scores, diversity=1.0, num_items=50))
        assert sorted(order) == rows
        vectors = np.asarray(model.bundle.item_vectors)
        second = order[1]
        similarities = vectors[rows] @ vectors[order[0]]
        assert similarities[second] == pytest.approx(np.delete(similarities, order[0]).min(), abs=1e-5)

    async def test_the_request_overrules_the_policy(self, model: ServingModel) -> None:
        rows, scores = list(range(50)), np.linspace(1, 0, 50).tolist()
        by_policy = shown(selection_for(model, rows, scores, policy=Policy(diversity=0.5)))
        assert by_policy != rows[:10]
        assert shown(selection_for(model, rows, scores, diversity=0.5)) == by_policy
        assert shown(selection_for(model, rows, scores, diversity=0.0, policy=Policy(diversity=0.5))) == rows[:10]


class TestExploration:
    ROWS = tuple(range(60))
    SCORES = tuple(np.linspace(1, 0, 60).tolist())

    async def test_one_request_has_one_answer_with_propensities(self, model: ServingModel) -> None:
        policy = Policy(exploration=0.5)
        first, second = (selection_for(model, self.ROWS, self.SCORES, policy=policy, explain=True) for _ in range(2))
        assert shown(first) == shown(second)
        assert len(set(shown(first))) == 10
        propensities = first.chosen[0].propensities
        assert propensities is not None
        assert ((propensities > 0) & (propensities <= 1)).all()
        assert (propensities < 1).any()
        reasons = answers_of(first)[0].reasons
        assert reasons is not None
        assert [reason.propensity for reason in reasons] == pytest.approx(propensities.tolist())

    async def test_caps_hold_for_what_is_drawn(self, model: ServingModel) -> None:
        policy = Policy(exploration=0.5, max_per_category=2)
        rows = shown(selection_for(model, self.ROWS, self.SCORES, policy=policy))
        assert all(count <= 2 for count in np.bincount(np.array(rows) % 4))

    async def test_without_exploration_every_propensity_is_one(self, model: ServingModel) -> None:
        reasons = answers_of(selection_for(model, explain=True))[0].reasons
        assert reasons is not None
        assert {reason.propensity for reason in reasons} == {1.0}

    async def test_the_kept_list_is_the_order_before_exploration(self, model: ServingModel) -> None:
        chosen = selection_for(model, self.ROWS, self.SCORES, policy=Policy(exploration=0.5)).chosen[0]
        assert chosen.pool_rows.tolist() == list(self.ROWS)

    async def test_an_answer_tells_where_its_items_stood_before_exploration(self, model: ServingModel) -> None:
        policy = Policy(exploration=0.5, diversity=0.4, max_per_category=2)
        selection = selection_for(model, self.ROWS, self.SCORES, policy=policy)
        (answered,) = answers_of(selection)
        pool = selection.chosen[0].pool_rows
        assert answered.num_candidates == len(pool) == 8, "two of each of four categories"
        assert [f"item-{pool[rank]}" for rank in answered.ranks] == answered.item_ids
        plain = answers_of(selection_for(model, self.ROWS, self.SCORES))[0]
        assert (plain.num_candidates, plain.ranks) == (0, ())


class TestAnswer:
    async def test_an_answer_names_items_model_and_variant(self, model: ServingModel) -> None:
        (answered,) = answers_of(selection_for(model))
        assert answered.item_ids == ["item-4", "item-2", "item-7", "item-9"]
        assert answered.model_version == "tiny-1"
        assert answered.variant == "champion"
        assert answered.request_id == "r"
        assert answered.reasons is None
        assert answered.next_page_token == "", "four of ten: there is no next page"

    async def test_a_full_page_names_the_next(self, model: ServingModel) -> None:
        selection = selection_for(model, num_items=3)
        token = answers_of(selection)[0].next_page_token
        request = selection.chosen[0].user.admitted
        assert model.page_tokens.open(token, request.fingerprint).tolist() == [4, 2, 7]

    async def test_everyone_gets_their_own_answer(self, model: ServingModel) -> None:
        users = [user_with(admitted(model, num_items=count)) for count in (1, 4, 2)]
        answers = answers_of(select([ranked(model, users)])[0])
        order = ["item-4", "item-2", "item-7", "item-9"]
        assert [answered.item_ids for answered in answers] == [order[:1], order, order[:2]]

    async def test_reasons_name_the_nearest_of_the_history(self, model: ServingModel) -> None:
        (answered,) = answers_of(selection_for(model, explain=True))
        assert answered.reasons is not None
        vectors = model.bundle.item_vectors
        history = np.array([20, 21, 22, 23])
        for row, reason in zip([4, 2, 7, 9], answered.reasons, strict=True):
            nearest = history[np.argsort(-(vectors[history] @ vectors[row]))][:3]
            assert reason.because_item_ids == tuple(f"item-{near}" for near in nearest)
            assert reason.source == "two_tower"
            assert reason.title == f"Title item-{row}"
        assert answered.reasons[0].score_parts == {"two_tower": pytest.approx(0.9)}

    async def test_reasons_of_popular_items_are_their_popularity(self, model: ServingModel) -> None:
        user = user_with(admitted(model, explain=True))
        popular = ranked(model, [user], [3, 1], [200.0, 100.0], source=Source.POPULAR)
        (answered,) = answers_of(select([popular])[0])
        assert answered.reasons is not None
        assert answered.reasons[0].source == "popular"
        assert answered.reasons[0].score_parts == {"popularity": 200.0}
        assert answered.reasons[0].because_item_ids == ()
