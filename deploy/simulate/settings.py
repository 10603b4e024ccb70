"""What a world is made from. Equal settings make equal worlds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """A shop. All random choices follow from `seed`."""

    seed: int = 1
    users: int = 2_500
    """Users with a history before the first day."""
    items: int = 400
    """Items in the catalogue before the first day."""
    new_users: int = 200
    """Users who arrive during the simulated days."""
    new_items: int = 20
    """Items that arrive during the simulated days."""
    days: int = 5
    """Days over which newcomers are spread."""
    events_per_user: int = 20
    """Mean number of choices of a user in the history."""
    drift: float = 0.03
    """Angle, in radians, by which a user's tastes turn every day."""
