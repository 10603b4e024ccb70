"""Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

Greedy: chooses one item after the other, each by its score and its unlikeness to the items before it. A determinantal
point process would weigh the set as a whole, but needs the similarities of all pairs for every request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST_NORM = np.float32(1e-12)


def diversify(
    scores: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], *, diversity: float, num_items: int
) -> npt.NDArray[np.int64]:
    """Positions of the chosen candidates in the order they are shown: (k,) int64, k = min(num_items, n).

    `scores` is (n,) float32, finite, higher is better; `vectors` is (n, dim) float32, zeros where an item has none.
    `diversity` is 0 (the order by score) to 1 (after the best item, only unlikeness counts).

    The first item has the best score. Each next item has the largest (1 - diversity) * score - diversity * similarity,
    with the score scaled to 0 to 1 over the range of all scores, and the largest cosine similarity to an item chosen
    before. Of equal items, the lower position comes first.

    Takes O(k * n * dim): 0.1 ms for 10 of 130, 20 ms for 500 of 1,000.
    """
    num_chosen = min(num_items, len(scores))
    if diversity == 0.0 or num_chosen < 2:
        order: npt.NDArray[np.int64] = np.argsort(-scores, kind="stable")[:num_chosen]
        return order
    relevance = _share_of_range(scores) * np.float32(1.0 - diversity)
    weight = np.float32(diversity)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST_NORM)
    largest_similarity = np.full(len(scores), -np.inf, dtype=np.float32)
    chosen = np.empty(num_chosen, dtype=np.int64)
    chosen[0] = best = int(np.argmax(scores))
    value = np.empty_like(relevance)
    for position in range(1, num_chosen):
        relevance[best] = -np.inf
        np.maximum(largest_similarity, unit @ unit[best], out=largest_similarity)
        np.multiply(largest_similarity, weight, out=value)
        np.subtract(relevance, value, out=value)
        chosen[position] = best = int(np.argmax(value))
    return chosen


def _share_of_range(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    least = scores.min()
    width = scores.max() - least
    return (scores - least) / width if width > 0.0 else np.zeros_like(scores)
