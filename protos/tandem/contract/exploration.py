"""Exploration: fills a share of the positions with random candidates, and gives the propensity of each item shown.

A model trained on the items that a policy showed learns the policy's preferences; weighting each example by the inverse
of its propensity undoes that (Schnabel et al., ICML 2016). So the propensities are exact, not estimated afterwards.

The server draws by `explore`, and the trainer judges policies from what was drawn (`trainer.off_policy`). `explore`
tells the probability of an item given the items before it, `position_probabilities` that over all draws.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def explore(
    order: npt.NDArray[np.int64], *, num_items: int, exploration: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The items shown, (k,) int64 with k = min(num_items, n), and their propensities, (k,) float32.

    `order` is (n,) int64, the pool, best first. Each position gets the best remaining item with probability
    1 - exploration, else an item drawn uniformly from all that remain, the best included. A propensity is the
    probability of an item at its position, given the items at the positions before it.
    """
    num_shown = min(num_items, len(order))
    if exploration == 0.0:
        return order[:num_shown], np.ones(num_shown, dtype=np.float32)
    num_remaining = len(order) - np.arange(num_shown)
    # Drawn for all positions at once, even where no draw is used: a draw costs less than the check.
    drawn = rng.integers(num_remaining)
    picks = np.where(rng.random(num_shown) < exploration, drawn, 0)
    propensities = exploration / num_remaining
    propensities[picks == 0] += 1.0 - exploration
    pool = order.tolist()
    shown = np.array([pool.pop(pick) for pick in picks.tolist()], dtype=np.int64)
    return shown, propensities.astype(np.float32)


def position_probabilities(num_candidates: int, num_positions: int, exploration: float) -> npt.NDArray[np.float64]:
    """The probability that `explore` shows each rank of the pool at each position: (num_positions + 1, k) float64.

    k = min(num_positions, num_candidates). Row i is for the candidate of rank i, 0 for the best; the last row is for
    any one candidate of rank `num_positions` or worse, which have all the same probabilities. Rows of ranks that the
    pool does not have are 0.

    In contrast to the propensities of `explore` these do not depend on the items before: what a policy earns is a sum
    over ranks and positions if an item's reward at a position does not depend on its neighbours.
    """
    num_shown = min(num_positions, num_candidates)
    shown = np.zeros((num_positions + 1, num_shown))
    ranks = np.arange(num_positions + 1)
    # waiting[i, b]: rank i has not been shown so far, and b better candidates have not been shown either.
    waiting = np.diag((ranks < num_candidates).astype(np.float64))
    for position in range(num_shown):
        num_remaining = num_candidates - position
        drawn = exploration / num_remaining
        shown[:, position] = waiting.sum(axis=1) * drawn + waiting[:, 0] * (1.0 - exploration)
        # A better one is shown, or one that is worse; where no better one is left, the best remaining is rank i.
        moved = waiting * ((1.0 - exploration) * (ranks > 0) + drawn * ranks)
        waiting *= drawn * np.maximum(num_remaining - 1 - ranks, 0)
        waiting[:, :-1] += moved[:, 1:]
    return shown


def rng_for(request_id: str) -> np.random.Generator:
    """Random numbers of one request: the same id gives the same numbers in every process."""
    seed = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
