"""What became of a request that a shadow model was to answer too.

Operators see these words in `tandem_shadow_requests_total`, GetServingStatus and `python -m inference_server shadow`.
"""

from enum import StrEnum
from typing import Final


class ShadowOutcome(StrEnum):
    """One of these for each request that was chosen."""

    COMPARED = "compared"
    """Both models answered in full, and the lists were compared."""
    LATER_PAGE = "later_page"
    """Not asked: a later page leaves out the items that the own model showed before."""
    OWN_DEGRADED = "own_degraded"
    """Not asked: the own model's answer is degraded, or came too late for its batch."""
    OWN_NOT_RANKED = "own_not_ranked"
    """Not asked: the own model answered with a list from memory, popular items, or no item at all."""
    OTHER_MODEL = "other_model"
    """Not asked: another model than the server's own answered, for an arm of an experiment, or before a swap."""
    NOT_IN_FORCE = "not_in_force"
    """Not asked: the shadow model is not open; `models` of GetServingStatus says why."""
    QUEUE_FULL = "queue_full"
    """Not asked: too many requests waited for a quiet moment."""
    EXPIRED = "expired"
    """Not asked: no quiet moment came in time."""
    STATE_CHANGED = "state_changed"
    """Answered and not compared: the user's state had changed since the own model read it."""
    DEGRADED = "degraded"
    """Answered and not compared: the shadow's answer is degraded."""
    EMPTY = "empty"
    """The shadow answered without any item."""
    NOT_FINITE = "not_finite"
    """The shadow gave an item a score that is NaN or infinite."""
    FAILED = "failed"
    """The shadow raised an error; the log has it (`shadow_failed`)."""
    TIMED_OUT = "timed_out"
    """The shadow did not answer within many times the deadline."""


SHADOW_FAULTS: Final = (
    ShadowOutcome.EMPTY,
    ShadowOutcome.NOT_FINITE,
    ShadowOutcome.FAILED,
    ShadowOutcome.TIMED_OUT,
)
"""What a model must not do. A degraded answer is no fault: the reason may be the store's."""
