"""Exceptions of the inference server.

InferenceServerError
+-- RequestError               reaches the caller; `status_of_errors` maps every class of this branch
|   +-- InvalidRequest         the caller's mistake, with the field that is wrong
|   +-- DeadlineTooShort       the caller's deadline leaves no time for any answer
|   +-- OverCapacity           too many concurrent requests; worth a retry
|   +-- StreamUnavailable      events or catalogue changes that are not known to be durable
|   +-- NoModel                no bundle has been opened yet
|   +-- UnknownItem            SimilarItems names an item that the catalogue does not hold
|   +-- Unauthenticated        credentials are missing or wrong, and authentication is on
|   +-- PermissionDenied       the key is valid, but not for this
+-- OperationError             never reaches a caller: logged, counted, or the end of a process
    +-- SettingsError          a setting that cannot be used
    +-- RegistryUnavailable    the registry or its artifacts cannot be read now
    +-- BundleRefused          a bundle that must not serve, with the kind of reason
    +-- PortUnavailable        an address that the server cannot listen on
    +-- PoliciesInvalid        a file of policies that cannot be used
    +-- ExperimentsInvalid     a table of experiments that cannot be used
    +-- CanaryInvalid          a canary that cannot be started as it was asked for
    +-- UnknownScenario        a policy that is not configured; the caller gets InvalidRequest
    +-- WorkerEnded            a worker ended before it executed an order
    +-- WorkersFailed          workers repeatedly end before they answer
    +-- CommandFailed          an operator's command that cannot be done

A dependency that fails during a request raises no exception to the caller: the answer is degraded (see `degradation`).
"""

from __future__ import annotations

from enum import StrEnum

from tandem.contract.errors import BundleCorrupt, BundleError


class InferenceServerError(Exception):
    """Root of the server's exceptions."""


class RequestError(InferenceServerError):
    """A request that gets no answer. The message is for the caller."""


class InvalidRequest(RequestError):
    """A field of the request is outside what the API allows."""

    def __init__(self, field: str, description: str) -> None:
        """`field` is the path of the field as the API writes it, for example "filter.exclude_item_ids"."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class DeadlineTooShort(RequestError):
    """The caller's deadline leaves no time for any answer."""


class OverCapacity(RequestError):
    """The server already answers its maximum number of concurrent requests."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StreamUnavailable(RequestError):
    """Events or catalogue changes may not be durable: the stream does not answer, or too slowly. Recording them again
    is safe."""


class NoModel(RequestError):
    """The server has not opened a bundle yet."""


class UnknownItem(RequestError):
    """An item that the request is about is not in the catalogue."""


class Unauthenticated(RequestError):
    """Missing or wrong credentials. The message never says which part was wrong."""


class PermissionDenied(RequestError):
    """A valid key that does not allow the call. The message says what it lacks."""


class OperationError(InferenceServerError):
    """A failure in running the server, not in answering one request."""


class SettingsError(OperationError):
    """A setting that cannot be used. The message names the variable."""


class RegistryUnavailable(OperationError):
    """The registry, or the artifacts it names, cannot be read now."""


class RefusalKind(StrEnum):
    """Why a bundle is refused; the values label the metric."""

    CORRUPT = "corrupt"
    """Damaged: a file is missing, truncated, or not what the manifest says; NaN vectors; an engine cannot read it."""
    INCOMPATIBLE = "incompatible"
    """Intact, but its parts do not fit each other or this code: dimensions, counts, tensors, format version."""
    GOLDEN_QUERIES = "golden_queries"
    """It opens, but gives wrong answers."""
    OVERLAP = "overlap"
    """Its recommendations differ more from those of the serving bundle than the settings allow."""
    CHECK_FAILED = "check_failed"
    """The process that checked it crashed or did not end."""

    @classmethod
    def of(cls, error: BundleError) -> RefusalKind:
        """The kind of refusal for a bundle that cannot be opened with `error`."""
        return cls.CORRUPT if isinstance(error, BundleCorrupt) else cls.INCOMPATIBLE


class BundleRefused(OperationError):
    """A bundle that must not serve."""

    def __init__(self, reason_kind: RefusalKind, reason: str) -> None:
        """`reason` says what is wrong and where."""
        super().__init__(f"{reason_kind}: {reason}")
        self.reason_kind = reason_kind
        self.reason = reason


class PortUnavailable(OperationError):
    """An address that the server cannot listen on."""


class PoliciesInvalid(OperationError):
    """A file of policies that cannot be used. The message names file, line and key of everything that is wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        """`problems` has at least one entry, each "file:line: key: what is wrong"."""
        super().__init__("; ".join(problems))
        self.problems = problems


class ExperimentsInvalid(OperationError):
    """A table of experiments that cannot be used. The message names flag and field of everything that is wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        """`problems` has at least one entry, each "where: flag: field: what is wrong"."""
        super().__init__("; ".join(problems))
        self.problems = problems


class CanaryInvalid(OperationError):
    """A canary that cannot be started, or a plan that is none. The message names what is wrong and what is allowed."""


class UnknownScenario(OperationError, LookupError):
    """A scenario that the file of policies does not name. The message continues the word "scenario"."""


class WorkerEnded(OperationError):
    """A worker ended, or was killed because it did not answer, before it executed an order."""


class WorkersFailed(OperationError):
    """No worker starts to answer, after several attempts."""


class CommandFailed(OperationError):
    """An operator's command that cannot be done. The message says why."""
