"""How far each position is looked at, from a log that explored.

Exploration shows items of equal rank at different positions, by chance alone, so the rewards of a rank at one position
and at another differ by the position only: clicks by rank and position are a product of two factors, which the
likelihood of Poisson counts estimates (Agarwal et al., WSDM 2019, "Estimating position bias without intrusive
interventions", with ranks in the place of items). Where the rewards are no counts, the estimate is still consistent.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from trainer.off_policy.judged import Floats, Ints, sums

_ROUNDS: Final = 500
_TOLERANCE: Final = 1e-10
_LEAST_SHARE: Final = 1e-3
"""Share of a position that earned nothing, beside the largest: an item there must not get an infinite weight."""


def estimate_examination(
    ranks: Ints, positions: Ints, rewards: Floats, users: Ints, *, num_users: int, num_positions: int
) -> tuple[Floats, Floats]:
    """(shares, influence) of `Examination`, from slots, (slots,) each; ranks above num_positions count as that.

    The largest share is 1. All shares are 1 if nothing was earned.
    """
    num_ranks = num_positions + 1
    cells = np.minimum(ranks, num_positions) * num_positions + positions
    shown = np.bincount(cells, minlength=num_ranks * num_positions).reshape(num_ranks, num_positions)
    earned = sums(cells, rewards, num_ranks * num_positions).reshape(num_ranks, num_positions)
    if not earned.any():
        return np.ones(num_positions), np.zeros((num_users, num_positions))
    shares = np.ones(num_positions)
    for _ in range(_ROUNDS):
        before = shares
        rates = earned.sum(axis=1) / np.maximum(shown @ shares, np.finfo(float).tiny)
        shares = earned.sum(axis=0) / np.maximum(rates @ shown, np.finfo(float).tiny)
        shares = np.maximum(shares / shares.max(), _LEAST_SHARE)
        if np.abs(shares - before).max() < _TOLERANCE:
            break
    expected = rates[:, None] * shares * shown
    information = np.diag(np.concatenate([expected.sum(axis=0), expected.sum(axis=1)]))
    information[:num_positions, num_positions:] = expected.T
    information[num_positions:, :num_positions] = expected
    # Singular: the scale of the shares is free. The pseudo-inverse picks one, and no estimate depends on it.
    to_shares = np.linalg.pinv(information, rcond=1e-12)[:num_positions]
    surprise = rewards - (rates[:, None] * shares).ravel()[cells]
    rank_rows = num_positions + cells // num_positions
    columns = [sums(users, surprise * (row[positions] + row[rank_rows]), num_users) for row in to_shares]
    return shares, np.stack(columns, axis=1)
