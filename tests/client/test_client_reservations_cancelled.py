"""A task that is cancelled within a block of reserved work, and generators and clients that are closed in one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from creditledger import AsyncCreditLedgerClient, CommitReservationResponse, CreditLedgerError
from reservation_script import TIMEOUT, lenient, sent, wait_for

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.client.conftest import FakeServer


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """Lets everything be reserved, extended, committed and released."""
    lenient(server)
    return server


class Slow:
    """An answer that comes when it is told to."""

    def __init__(self, response: Message) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self._response = response

    def __call__(self, request: Message, context: grpc.ServicerContext) -> Message:
        self.asked.set()
        self.go_on.wait(TIMEOUT)
        return self._response


@pytest.fixture
def slow_commit(server: FakeServer) -> Iterator[Slow]:
    slow = Slow(CommitReservationResponse(cost=2))
    server.always("CommitReservation", slow)
    yield slow
    slow.go_on.set()


async def reach(condition: Any) -> None:
    await asyncio.to_thread(wait_for, condition)


async def test_a_cancelled_task_has_released_when_it_ends(server: FakeServer) -> None:
    async with AsyncCreditLedgerClient(server.target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.reserve("user-1", "video_processing"):
                await asyncio.sleep(TIMEOUT)
        assert sent(server) == ["Reserve", "ReleaseReservation"]
    assert server.requests["ReleaseReservation"][0].reason == "CancelledError"


async def test_a_task_cancelled_twice_has_released_when_it_ends(server: FakeServer) -> None:
    slow = Slow(CommitReservationResponse())
    server.always("ReleaseReservation", slow)

    async def work(client: AsyncCreditLedgerClient) -> None:
        async with client.reserve("user-1", "video_processing"):
            await asyncio.sleep(TIMEOUT)

    async with (
        AsyncCreditLedgerClient(server.target, timeout=TIMEOUT) as client,
        asyncio.TaskGroup() as tasks,
    ):
        task = tasks.create_task(work(client))
        await reach(lambda: server.requests["Reserve"])
        await asyncio.sleep(0.05)
        task.cancel()
        await reach(slow.asked.is_set)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        slow.go_on.set()
        await asyncio.wait((task,))
        assert task.cancelled()


async def test_a_release_that_fails_is_noted_with_the_cancellation(server: FakeServer) -> None:
    server.always("ReleaseReservation", server.error(grpc.StatusCode.INTERNAL, "INTERNAL"))
    async with AsyncCreditLedgerClient(server.target) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2), client.reserve("user-1", "video_processing"):
                await asyncio.sleep(TIMEOUT)
    assert "r7 of user-1 was not released" in getattr(caught.value.__cause__, "__notes__", [""])[0]


async def test_a_task_cancelled_during_its_commit_waits_for_the_answer(
    server: FakeServer, slow_commit: Slow
) -> None:
    async with AsyncCreditLedgerClient(server.target, timeout=TIMEOUT) as client:
        block = client.reserve("user-1", "video_processing")

        async def work() -> None:
            async with block:
                pass

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work())
            await reach(slow_commit.asked.is_set)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()
            slow_commit.go_on.set()
            await asyncio.wait((task,))
            assert task.cancelled()
        assert block.cost == 2
    assert sent(server) == ["Reserve", "CommitReservation"]


async def test_a_task_cancelled_during_its_commit_does_not_wait_for_ever_and_does_not_release(
    server: FakeServer, slow_commit: Slow
) -> None:
    async with AsyncCreditLedgerClient(server.target) as client:
        block = client.reserve("user-1", "video_processing", timeout=0.3, commit_timeout=TIMEOUT)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), block:
                pass
        assert time.monotonic() - begun < TIMEOUT / 2
        assert "ReleaseReservation" not in sent(server)

        slow_commit.go_on.set()
        await block.commit()
    ids = {request.request_id for request in server.requests["CommitReservation"]}
    assert len(ids) == 1
    assert block.cost == 2


async def test_the_task_that_extends_ends_with_the_block(server: FakeServer) -> None:
    async with AsyncCreditLedgerClient(server.target) as client:
        async with client.reserve("user-1", "video_processing"):
            within = len(asyncio.all_tasks())
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == within - 1


async def test_an_async_generator_that_is_not_read_to_its_end_releases(server: FakeServer) -> None:
    async def words(client: AsyncCreditLedgerClient) -> AsyncIterator[str]:
        async with client.reserve("user-1", "video_processing"):
            yield "all"
            yield "about"

    async with AsyncCreditLedgerClient(server.target) as client:
        stream = words(client)
        assert await anext(stream) == "all"
        await stream.aclose()  # type: ignore[attr-defined]
    assert sent(server) == ["Reserve", "ReleaseReservation"]


async def test_an_async_client_closed_within_the_block_does_not_hide_the_error_of_the_work(
    server: FakeServer,
) -> None:
    client = AsyncCreditLedgerClient(server.target)
    with pytest.raises(KeyError) as caught:
        async with client.reserve("user-1", "video_processing"):
            await client.close()
            raise KeyError("voice")
    assert "was not released" in caught.value.__notes__[0]


async def test_an_async_client_closed_under_a_commit_leaves_its_outcome_unknown(
    server: FakeServer, slow_commit: Slow
) -> None:
    client = AsyncCreditLedgerClient(server.target, timeout=TIMEOUT)
    block = client.reserve("user-1", "video_processing")

    async def work() -> None:
        async with block:
            pass

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            await reach(slow_commit.asked.is_set)
            await client.close()
    (error,) = caught.value.exceptions
    assert isinstance(error, CreditLedgerError)
    assert error.outcome_unknown
    assert error.request_id == server.requests["CommitReservation"][0].request_id
    assert "was not released" in error.__notes__[0]
