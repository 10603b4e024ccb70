"""The table from status code to exception is complete."""

from __future__ import annotations

import pickle

import grpc
import pytest

import tandem.client.errors as errors
from tandem.client.errors import EXCEPTION_OF, Failure, TandemError, batch_failure_of, error_of, failure_of
from tandem.v1 import recommendation_pb2 as pb


def _classes(root: type[TandemError]) -> set[type[TandemError]]:
    return {root}.union(*(_classes(kind) for kind in root.__subclasses__()))


def test_every_code_but_ok_has_an_exception() -> None:
    assert set(EXCEPTION_OF) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_every_exception_is_raised_for_some_code_and_is_public_and_drawn() -> None:
    import tandem.client

    kinds = _classes(TandemError) - {TandemError}
    assert kinds == set(EXCEPTION_OF.values()) | {errors.PageExpired, errors.InvalidArgument, errors.ClientClosed}
    assert {kind.__name__ for kind in kinds} <= set(tandem.client.__all__)
    assert [kind.__name__ for kind in kinds if f"+-- {kind.__name__} " not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("code", EXCEPTION_OF, ids=lambda code: code.name)
def test_an_error_survives_pickling(code: grpc.StatusCode) -> None:
    failure = Failure(code=code, message="why", field="f", description="d", retry_after_seconds=1.5, num_attempts=2)
    copy = pickle.loads(pickle.dumps(error_of(failure)))
    assert type(copy) is EXCEPTION_OF[code]
    assert (str(copy), copy.code, copy.num_attempts, copy.failure) == ("why", code, 2, failure)


@pytest.mark.parametrize("metadata", [None, (), (("grpc-status-details-bin", b"\xff\xff"),), (("x", "y"),)])
def test_unreadable_details(metadata: tuple[tuple[str, str | bytes], ...] | None) -> None:
    failure = failure_of(grpc.StatusCode.INVALID_ARGUMENT, None, metadata)
    assert failure == Failure(code=grpc.StatusCode.INVALID_ARGUMENT, message="INVALID_ARGUMENT")


def test_an_error_of_a_batch_entry_is_that_of_a_call() -> None:
    wire = pb.BatchError(
        code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="num_items: too many", field="num_items"
    )
    error = error_of(batch_failure_of(wire))
    assert isinstance(error, errors.InvalidRequest)
    assert (error.field, error.description, str(error)) == ("num_items", "too many", "num_items: too many")
    wire.field = "page_token"
    assert isinstance(error_of(batch_failure_of(wire)), errors.PageExpired)


@pytest.mark.parametrize("number", [0, 99, -1])
def test_a_batch_entry_with_an_invalid_code(number: int) -> None:
    failure = batch_failure_of(pb.BatchError(code=number))
    assert failure == Failure(code=grpc.StatusCode.UNKNOWN, message="UNKNOWN")
