"""What leaves the server when a method raises: a status with details, and nothing of what it did not foresee."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc
import pytest
from creditledger.v1.credit_ledger_pb2 import DeductRequest
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.rpc.boundary import Boundary
from creditledger_server.storage.errors import BatchRejected, Contended, StorageUnavailable
from google.rpc import error_details_pb2, status_pb2


class Aborted(grpc.aio.AbortError):
    """What abort raises."""


class Call:
    """A call's context: notes what is written and how it ends."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.code: grpc.StatusCode | None = None
        self.message = ""
        self.trailers: dict[str, bytes] = {}

    async def send_initial_metadata(self, _metadata: object) -> None:
        assert not self.written

    async def write(self, message: str) -> None:
        self.written.append(message)

    async def abort(
        self, code: grpc.StatusCode, message: str, trailing_metadata: tuple[tuple[str, bytes], ...]
    ) -> None:
        self.code, self.message, self.trailers = code, message, dict(trailing_metadata)
        raise Aborted

    def info(self) -> error_details_pb2.ErrorInfo:
        status = status_pb2.Status.FromString(self.trailers["grpc-status-details-bin"])
        assert self.code is not None
        assert (status.code, status.message) == (self.code.value[0], self.message)
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        return info


async def wrapped(behavior: Callable[[Any, Any], Any], stream: bool = False) -> Any:
    """The handler of a method that behaves like this, as the boundary hands it out."""
    make = grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler

    async def continuation(_details: object) -> Any:
        return make(behavior, request_deserializer=DeductRequest.FromString)

    details = cast(grpc.HandlerCallDetails, type("Details", (), {"method": "/s/Method"}))
    return await Boundary().intercept_service(continuation, details)


async def end_of(error: BaseException, stream: bool) -> Call:
    """How the call ends when its method raises."""

    async def unary(_request: object, _context: object) -> str:
        raise error

    async def streaming(_request: object, _context: object) -> AsyncIterator[str]:
        yield "first"
        raise error

    call, handler = Call(), await wrapped(streaming if stream else unary, stream)
    with pytest.raises(grpc.aio.AbortError):
        await (handler.unary_stream if stream else handler.unary_unary)(DeductRequest(), call)
    assert call.written == (["first"] if stream else [])
    return call


STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])


@STREAMS
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Refused(Reason.ACCOUNT_FROZEN, "frozen"), "FAILED_PRECONDITION", "ACCOUNT_FROZEN"),
        (StorageUnavailable("host 10.0.0.1"), "UNAVAILABLE", "STORAGE_UNAVAILABLE"),
        (Contended("lock of relation entry"), "ABORTED", "CONTENTION"),
        (NotImplementedError(), "UNIMPLEMENTED", "NOT_IMPLEMENTED"),
        (BatchRejected("SELECT secret"), "INTERNAL", "INTERNAL"),
        (AssertionError("secret"), "INTERNAL", "INTERNAL"),
        (KeyError("secret"), "INTERNAL", "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_an_error_is_a_status_with_details(
    error: Exception, code: str, reason: str, stream: bool
) -> None:
    call = await end_of(error, stream)
    assert call.code is not None
    assert (call.code.name, call.info().reason, call.info().domain) == (code, reason, "creditledger")
    assert "secret" not in call.message + str(call.trailers)
    assert "10.0.0.1" not in call.message + str(call.trailers)


@STREAMS
async def test_a_bug_leaves_an_incident_id_that_the_log_explains(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    call = await end_of(RuntimeError("secret"), stream)
    incident = call.info().metadata["incidentId"]
    assert call.message == f"internal error, incident {incident}"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert incident in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "secret"


@STREAMS
@pytest.mark.parametrize("error", [asyncio.CancelledError(), Aborted()], ids=["cancelled", "aborted"])
async def test_a_call_that_has_ended_already_is_left_alone(error: BaseException, stream: bool) -> None:
    async def behavior(_request: object, _context: object) -> None:
        raise error

    call, handler = Call(), await wrapped(behavior, stream)
    with pytest.raises(type(error)):
        await (handler.unary_stream if stream else handler.unary_unary)(DeductRequest(), call)
    assert call.code is None


async def test_an_answer_is_passed_on() -> None:
    async def unary(_request: object, _context: object) -> str:
        return "answer"

    async def streaming(_request: object, _context: object) -> AsyncIterator[str]:
        yield "one"
        yield "two"

    call = Call()
    assert await (await wrapped(unary)).unary_unary(DeductRequest(), call) == "answer"
    await (await wrapped(streaming, stream=True)).unary_stream(DeductRequest(), call)
    assert (call.written, call.code) == (["one", "two"], None)


@STREAMS
async def test_bytes_that_are_no_message_are_the_callers_fault(stream: bool) -> None:
    async def behavior(_request: object, _context: object) -> None:
        raise AssertionError("called")

    call, handler = Call(), await wrapped(behavior, stream)
    request = handler.request_deserializer(b"\xff\xff")
    with pytest.raises(grpc.aio.AbortError):
        await (handler.unary_stream if stream else handler.unary_unary)(request, call)
    assert call.code is grpc.StatusCode.INVALID_ARGUMENT
    assert call.info().reason == "FIELD_INVALID"


async def test_an_unknown_method_stays_unknown_and_is_not_kept() -> None:
    async def continuation(_details: object) -> None:
        return None

    boundary = Boundary()
    for number in range(3):
        details = cast(grpc.HandlerCallDetails, type("Details", (), {"method": f"/made/up{number}"}))
        assert await boundary.intercept_service(continuation, details) is None
    assert boundary._wrapped == {}
