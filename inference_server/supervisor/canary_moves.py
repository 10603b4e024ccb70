"""The moves of canaries as events: a line in the log, a counter, and a message to people. The registry's tags are the
fifth form; whoever writes them makes the move."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import structlog

from inference_server.canary.record import CanaryRecord
from inference_server.core.canary_status import CanaryStatus
from inference_server.supervisor.notifier import Notifier

_log = structlog.get_logger()


class Move(StrEnum):
    """What can happen to a canary."""

    STARTED = "started"
    STEP = "step"
    TAKEN_BACK = "taken_back"
    STOPPED = "stopped"
    PROMOTED = "promoted"


class CanaryMoves:
    """Tells about moves, and counts them."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self.counted: Counter[str] = Counter(dict.fromkeys(Move, 0))
        """Moves that this server made or saw."""

    def tell(self, move: Move, record: CanaryRecord, status: CanaryStatus, *, is_own: bool) -> None:
        """Tells about a move. `is_own`: this server made it; people hear of it from that one alone."""
        self.counted[move] += 1
        level = _log.warning if move is Move.TAKEN_BACK else _log.info
        level(
            f"canary_{move}",
            experiment=record.experiment,
            registry_version=record.version.number,
            model_version=record.version.model_version,
            against=record.against,
            step=record.step + 1,
            percent=record.plan.steps[record.step],
            reason=status.reason,
            made_here=is_own,
            answers=status.answers,
            harmed=status.harmed,
            all_answers=status.all_answers,
            harmed_share=round(status.harmed_share, 6),
            seconds=round(status.seconds, 3),
        )
        if is_own:
            self.send(move, record, status)

    def send(self, move: Move, record: CanaryRecord, status: CanaryStatus) -> None:
        """Sends people the message about a move."""
        self._notifier.tell(*message_of(move, record, status))


def message_of(move: Move, record: CanaryRecord, status: CanaryStatus) -> tuple[str, str]:
    """Title and text of a message about a move."""
    name = f"Tandem canary: version {record.version.number} ({record.version.model_version})"
    percent = f"{record.plan.steps[record.step]:g} %"
    match move:
        case Move.STARTED:
            title = f"{name} started by {record.started_by}"
            return title, f"Steps: {record.plan.shown_steps} %. It is compared with version {record.against}."
        case Move.STEP:
            return f"{name} takes {percent} of the users", figures(status)
        case Move.PROMOTED:
            title = f"{name} is the champion, in place of version {record.against}"
            return title, f"{status.reason}. {figures(status)}"
        case Move.STOPPED:
            return f"{name} was stopped", f"{status.reason}. {figures(status)}"
        case Move.TAKEN_BACK:
            return f"{name} was taken back at {percent}", f"{status.reason}. {figures(status)}"


def figures(status: CanaryStatus) -> str:
    """What a canary did on one server, as a sentence."""
    return (
        f"It answered {status.answers} of {status.all_answers} requests here in {status.seconds:.1f} s, "
        f"{status.harmed} of them harmed ({status.harmed_share:.2%} of all)."
    )
