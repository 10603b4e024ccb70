"""The sequential linear model: which item comes next, from the items before it, with a closed form.

SLIT of SLIST (Choi et al., "Session-aware Linear Item-Item Models for Session-based Recommendation", WWW 2021), with a
user's whole history as one session: W = (H'H + l2 I)^-1 H'Y, where each row of H is a history up to an event, each item
weighted by exp(-age / decay), and the row of Y is the item of the next event.

H has a row for each event and is never built. Its rows are h_t = d h_(t-1) + e_(x_t) with d = exp(-1 / decay), so both
products are sums over pairs of events of one user, of weights that depend on their distance and on the events that
follow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.dataset.dataset import Dataset
from trainer.models.ease import LinearItems, float_type, inverse

Matrix = npt.NDArray[np.floating]

_NEGLIGIBLE = 0.01
"""Pairs of events are left out from the distance on at which an item has decayed to this weight."""
_SPARSE_BELOW = 0.1
"""Share of entries of H'Y that are not 0 up to which the product with it is faster in sparse form."""


def sequential_weights(
    dataset: Dataset, *, decay_events: float, l2: float, event_weights: npt.NDArray[np.float32] | None = None
) -> LinearItems:
    """Weights with which each item in a history, decayed by its age, adds to the scores of the items that come next.

    `event_weights`, (events,) float32, say how much each event counts as the next item; None: all count alike. `l2` is
    the regularisation, in events. The diagonal is 0: a history does not recommend its own items.
    """
    items = np.unique(dataset.item_rows)
    products = sequential_products(dataset, items, decay_events=decay_events, event_weights=event_weights)
    return weights_of_products(items, *products, l2=l2, num_items=len(dataset.catalogue))


def weights_of_products(
    items: npt.NDArray[np.int64], inputs: Matrix, targets: Matrix, *, l2: float, num_items: int
) -> LinearItems:
    """The weights between `items`, from `sequential_products`, which stay as they are."""
    gram = inputs.copy(order="F")
    gram[np.diag_indices_from(gram)] += l2
    inverted = inverse(gram)
    if np.count_nonzero(targets) < _SPARSE_BELOW * targets.size:
        product = (sparse.csr_matrix(targets.T) @ inverted).T  # the inverse is symmetric
    else:
        product = inverted @ targets
    weights = np.ascontiguousarray(product, dtype=np.float32)
    np.fill_diagonal(weights, 0.0)
    return LinearItems(items, weights, num_items)


def sequential_products(
    dataset: Dataset,
    items: npt.NDArray[np.int64],
    *,
    decay_events: float,
    event_weights: npt.NDArray[np.float32] | None = None,
) -> tuple[Matrix, Matrix]:
    """(H'H, H'Y), both (n, n) of `float_type(n)`, for `items`, (n,) int64: all items with an event, ascending.

    A user's events t = 0..m-2 have rows in H. Events j <= k of a user are both in the rows k..m-2, so the pair adds
    d^(k-j) (1 + d^2 + ... + d^(2 (m-2-k))) to H'H, and event k as the next item adds d^(k-1-j) to H'Y. With event
    weights, a row of H and of Y counts as much as its next item.
    """
    num_items = len(items)
    rows, positions = np.searchsorted(items, dataset.item_rows), np.arange(len(dataset.item_rows))
    ends = np.repeat(dataset.offsets[1:], dataset.lengths)
    decay = np.exp(-1.0 / decay_events)
    row_weights = _sums_of_rows(dataset, decay, event_weights)
    inputs, targets = (np.zeros(num_items**2, dtype=float_type(num_items)) for _ in range(2))
    farthest = min(int(np.ceil(-np.log(_NEGLIGIBLE) * decay_events)), int(dataset.lengths.max(initial=1)) - 1)
    for distance in range(1, farthest + 1):
        older = positions[positions + distance < ends]
        newer = older + distance
        cells = rows[older] * num_items + rows[newer]
        np.add.at(inputs, cells, (decay**distance * row_weights[newer]).astype(inputs.dtype))
        following = np.full(len(older), decay ** (distance - 1))
        if event_weights is not None:
            following *= event_weights[newer]
        np.add.at(targets, cells, following.astype(targets.dtype))
    one_sided = inputs.reshape(num_items, num_items)
    both_sides = one_sided + one_sided.T
    both_sides[np.diag_indices_from(both_sides)] += np.bincount(rows, row_weights, minlength=num_items)
    return both_sides, targets.reshape(num_items, num_items)


def _sums_of_rows(
    dataset: Dataset, decay: float, event_weights: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """(events,) float64: for a user's event k of m, the sum of d^(2 (t - k)) over the rows t = k..m-2 of H, each times
    the weight of event t + 1; 0 for the last event."""
    if event_weights is None:
        num_rows = np.repeat(dataset.offsets[1:], dataset.lengths) - 1 - np.arange(len(dataset.item_rows))
        return np.asarray((1.0 - decay ** (2.0 * num_rows)) / (1.0 - decay**2), dtype=np.float64)
    sums = np.zeros(len(dataset.item_rows))
    # From the second-newest event to the oldest, all users at once.
    for steps in range(1, int(dataset.lengths.max(initial=1))):
        current = dataset.offsets[1:][dataset.lengths > steps] - 1 - steps
        sums[current] = event_weights[current + 1] + decay**2 * sums[current + 1]
    return sums
