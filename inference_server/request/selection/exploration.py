"""Exploration: a share of places goes to candidates drawn at random, with the probability of what was shown.

Training on what a policy showed learns what the policy likes; weighting each example by one over its probability undoes
that (Schnabel et al., ICML 2016). So the probabilities are exact, not estimated afterwards.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def explore(
    order: npt.NDArray[np.int64], *, num_items: int, exploration: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """What is shown, (k,) int64 with k = min(num_items, n), and each one's propensity, (k,) float32.

    `order` is (n,) int64, the pool, best first. Each place takes the best that remains with probability
    1 - exploration, else one drawn uniformly from all that remain, the best included. A propensity is the probability
    that the place took this item, given what the places before it took.
    """
    num_shown = min(num_items, len(order))
    if exploration == 0.0:
        return order[:num_shown], np.ones(num_shown, dtype=np.float32)
    num_remaining = len(order) - np.arange(num_shown)
    # Drawn for all places at once, also where it is not used: a draw costs less than asking whether it is needed.
    drawn = rng.integers(num_remaining)
    picks = np.where(rng.random(num_shown) < exploration, drawn, 0)
    propensities = exploration / num_remaining
    propensities[picks == 0] += 1.0 - exploration
    pool = order.tolist()
    shown = np.array([pool.pop(pick) for pick in picks.tolist()], dtype=np.int64)
    return shown, propensities.astype(np.float32)


def rng_for(request_id: str) -> np.random.Generator:
    """Random numbers of one request: the same id gives the same ones in every process."""
    seed = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
