"""The report of a bug of ours, in the log and to the caller, for every transport."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.request.flow.limits import new_request_id
from inference_server.security.callers import caller_name
from inference_server.telemetry.logs import log_failed


@dataclass(frozen=True, slots=True)
class InternalError:
    """The part that the caller receives: an id by which the log has the bug, and no details."""

    request_id: str
    """The id of the log line."""
    message: str


def internal_error(*, user_id: str | None = None, path: str | None = None) -> InternalError:
    """Logs the exception that is being handled, with its stack trace, and returns the caller's part.

    `user_id` is "" for an anonymous visitor, None where no user is known; `path` is that of an HTTP request.
    """
    request_id = new_request_id()
    log_failed(request_id=request_id, user_id=user_id, caller=caller_name(), path=path)
    return InternalError(request_id, f"internal error, request_id {request_id}")
