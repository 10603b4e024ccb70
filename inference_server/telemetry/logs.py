"""Logs: one JSON object a line on stderr, from this code and from the libraries under it.

This is the only module that configures structlog and the standard library's logging.

Every line about one request has its `request_id`, which the caller gets too. It is passed to each line by name and not
bound to a context, which would cost every request and not only those that are logged. Users' ids are personal data and
appear in no line: `user_digest` replaces them. The digest is a pseudonym and not anonymous: a reader with a list of
users can compute their digests, which is also how an operator finds the lines of one user. Nothing else of a request's
content is logged. Passwords are redacted (see `tandem.ops.secrets`), and a traceback shows no local variables.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

import structlog

from inference_server.telemetry.line_limit import LineLimit
from tandem.ops.secrets import redact_event, user_digest

_log = structlog.get_logger()
_failures = LineLimit()

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str, *, process: str) -> None:
    """Sets up logging for this process. `process` is written into every line: supervisor, worker or check."""

    def add_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, redact_event, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(LibraryLines().admits)
    # Libraries log from warning on: alembic and MLflow log every migration and download at info.
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[level], logging.WARNING), force=True)


def logs_answers() -> bool:
    """Whether `log_answered` writes a line. Call it once and keep the result: structlog takes microseconds for it."""
    enabled: bool = _log.is_enabled_for(logging.DEBUG)
    return enabled


def log_answered(
    *,
    request_id: str,
    user_id: str,
    source: str,
    degraded_reasons: Sequence[str],
    milliseconds: float,
    caller: str = "",
) -> None:
    """Logs one answer at debug. `caller` is the name of its API key."""
    _log.debug(
        "answered",
        request_id=request_id,
        user=user_digest(user_id),
        source=source,
        degraded_reasons=list(degraded_reasons),
        milliseconds=round(milliseconds, 3),
        caller=caller,
    )


def log_failed(*, request_id: str, user_id: str | None = None, caller: str = "", path: str | None = None) -> None:
    """Logs the exception that is being handled, a bug of ours. The caller gets only `request_id`.

    The stack trace is written once a second for each place where an exception is raised: every request may fail there.
    `user_id` is "" for an anonymous visitor; `path` is that of an HTTP request. The line omits an argument that is
    None.
    """
    request = {} if user_id is None else {"user": user_digest(user_id)}
    if path is not None:
        request["path"] = path
    error = sys.exception()
    place = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
    kind = (type(error), *((frame.filename, frame.lineno) for frame in place))
    if _failures.admit(kind) is None:
        _log.error("request_failed", request_id=request_id, **request, caller=caller, error=type(error).__name__)
    else:
        _log.exception("request_failed", request_id=request_id, **request, caller=caller)


class LibraryLines:
    """Lets one line a second through from each place of a library: callers cause some of them, without a key."""

    def __init__(self) -> None:
        self._lines = LineLimit()

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether a handler shall write the record; a filter of `logging.Handler.addFilter`."""
        if record.exc_info is not None and _says_that_the_caller_has_gone(record.exc_info[1]):
            return False
        # With arguments, the message is a constant of the library; without, it may have the content of a request.
        kind = (record.name, record.pathname, record.lineno, record.msg if record.args else "")
        left_out = self._lines.admit(kind)
        if left_out is None:
            return False
        if record.exc_info is not None and isinstance(record.exc_info[1], UnicodeDecodeError):
            # gRPC writes the bytes of a call's metadata, which may be a key, and where it could not decode them.
            record.msg, record.args, record.exc_info = "received text that is not UTF-8", (), None
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} lines like it were left out)", ()
        return True


def _says_that_the_caller_has_gone(error: BaseException | None) -> bool:
    """Whether gRPC could not write to a call, or read from it, because the call has ended.

    Callers hang up, and deadlines pass, whenever they please; grpcio writes an error with a stack trace for each that
    it meets in the middle of an answer. The calls are counted as CANCELLED.
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return ("grpc", "InternalError") in kinds
