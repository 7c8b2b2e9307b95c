"""Timeouts, the end of a client, and what cannot be done with one."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from creditledger import (
    AsyncCreditLedgerClient,
    Cancelled,
    CreditLedgerClient,
    DeadlineExceeded,
    DeductResponse,
    ServerOverloaded,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.client.conftest import Call, FakeServer


class Hang:
    """An answer that does not come before the call ends."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, request: Message, context: grpc.ServicerContext) -> Message:
        self.begun.set()
        while context.is_active():
            time.sleep(0.01)
        return DeductResponse()


@pytest.mark.parametrize(
    ("of_client", "of_call", "expected"),
    [(None, None, 5.0), (9.0, None, 9.0), (None, 2.0, 2.0), (9.0, 2.0, 2.0), (2.0, 9.0, 9.0)],
)
def test_the_timeout_is_the_call_s_or_else_the_client_s_or_else_5_s(
    server: FakeServer, call: Call, of_client: float | None, of_call: float | None, expected: float
) -> None:
    remaining: list[float] = []

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        remaining.append(context.time_remaining())
        return DeductResponse()

    server.answer("Deduct", answer)
    options = {} if of_client is None else {"timeout": of_client}
    call("deduct", "user-1", "script_generation", options=options, timeout=of_call)
    assert remaining[0] == pytest.approx(expected, abs=0.9)


def test_a_call_that_times_out_leaves_the_outcome_unknown(server: FakeServer, call: Call) -> None:
    server.answer("Deduct", Hang())
    with pytest.raises(DeadlineExceeded) as caught:
        call("deduct", "user-1", "script_generation", timeout=0.2)
    assert caught.value.outcome_unknown
    assert caught.value.request_id == server.requests["Deduct"][0].request_id
    assert not caught.value.reason


def test_options_reach_the_channel(server: FakeServer, call: Call) -> None:
    options = {"options": [("grpc.max_receive_message_length", 1)]}
    server.answer("Deduct", DeductResponse(cost=1_000_000))
    with pytest.raises(Exception, match="larger than max") as caught:
        call("deduct", "user-1", "script_generation", options=options)
    # The server has charged, and only its answer was lost.
    assert getattr(caught.value, "outcome_unknown", False)


def test_closing_ends_calls_in_flight(server: FakeServer) -> None:
    hang = Hang()
    server.answer("Deduct", hang)
    caught: list[Exception] = []

    def deduct() -> None:
        try:
            client.deduct("user-1", "script_generation")
        except Cancelled as error:
            caught.append(error)

    client = CreditLedgerClient(server.target)
    thread = threading.Thread(target=deduct)
    thread.start()
    assert hang.begun.wait(5)
    client.close()
    thread.join(5)
    (error,) = caught
    assert isinstance(error, Cancelled)
    assert error.outcome_unknown
    assert error.request_id == server.requests["Deduct"][0].request_id


async def test_closing_the_async_client_raises_in_tasks_that_await_a_call(server: FakeServer) -> None:
    hang = Hang()
    server.answer("Deduct", hang)
    client = AsyncCreditLedgerClient(server.target)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.deduct("user-1", "script_generation"))
            assert await asyncio.to_thread(hang.begun.wait, 5)
            await client.close()
    (error,) = caught.value.exceptions
    assert isinstance(error, Cancelled)
    assert error.outcome_unknown
    assert error.request_id == server.requests["Deduct"][0].request_id


async def test_a_cancelled_task_is_cancelled(server: FakeServer) -> None:
    server.answer("Deduct", Hang())
    async with AsyncCreditLedgerClient(server.target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.deduct("user-1", "script_generation")


def test_closing_twice_does_nothing(server: FakeServer) -> None:
    client = CreditLedgerClient(server.target)
    client.close()
    client.close()


async def test_closing_the_async_client_twice_does_nothing(server: FakeServer) -> None:
    client = AsyncCreditLedgerClient(server.target)
    await client.close()
    await client.close()


def test_a_channel_of_the_caller_s_own_serves_and_is_closed(server: FakeServer) -> None:
    channel = grpc.insecure_channel(server.target)
    with CreditLedgerClient.from_channel(channel, timeout=3.0) as client:
        client.get_server_info()
    with pytest.raises(ValueError, match="closed"):
        client.get_server_info()


async def test_an_aio_channel_of_the_caller_s_own_serves_and_is_closed(server: FakeServer) -> None:
    channel = grpc.aio.insecure_channel(server.target)
    async with AsyncCreditLedgerClient.from_channel(channel, timeout=3.0) as client:
        await client.get_server_info()
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        await client.get_server_info()


def test_credentials_make_the_connection_secure(server: FakeServer) -> None:
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    with CreditLedgerClient(server.target, credentials=credentials) as client:
        # Local credentials add no handshake, so the plain server can answer.
        client.get_server_info()


async def test_credentials_make_the_async_connection_secure(server: FakeServer) -> None:
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    async with AsyncCreditLedgerClient(server.target, credentials=credentials) as client:
        await client.get_server_info()


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_client_cannot_be_pickled_or_copied(server: FakeServer, duplicate: Any) -> None:
    with (
        CreditLedgerClient(server.target) as client,
        pytest.raises(TypeError, match="cannot be pickled"),
    ):
        duplicate(client)
    async with AsyncCreditLedgerClient(server.target) as async_client:
        with pytest.raises(TypeError, match="AsyncCreditLedgerClient holds open connections"):
            duplicate(async_client)


def test_threads_share_a_client(server: FakeServer) -> None:
    with CreditLedgerClient(server.target) as client:
        threads = [
            threading.Thread(target=client.deduct, args=("user-1", "script_generation")) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert len({request.request_id for request in server.requests["Deduct"]}) == 16


async def test_tasks_share_a_client(server: FakeServer) -> None:
    async with AsyncCreditLedgerClient(server.target) as client, asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(client.deduct("user-1", "script_generation"))
    assert len({request.request_id for request in server.requests["Deduct"]}) == 16


def test_an_overloaded_server_is_not_asked_again(server: FakeServer, call: Call) -> None:
    server.answer("Deduct", server.error(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED"))
    with pytest.raises(ServerOverloaded):
        call("deduct", "user-1", "script_generation")
    assert len(server.requests["Deduct"]) == 1
