"""Readers that do not read: WATCHER_TOO_SLOW after a while without progress, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from creditledger_server.rpc import boundary as boundary_module
from creditledger_server.rpc.boundary import Boundary
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

PATIENCE = 0.5
LONG = 10.0
MESSAGE = bytes(1 << 16)
SMALL_BUFFERS = [("grpc.http2.bdp_probe", 0)]
"""Otherwise they grow to megabytes, and a write goes on only once half of that was read."""

Behavior = Callable[[], AsyncIterator[bytes]]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary_module, "STALL_SECONDS", PATIENCE)


class Site:
    """A server with one method, which streams; how its streams ended, and what the boundary counts."""

    def __init__(self, behavior: Behavior) -> None:
        self.boundary = Boundary()
        self.closed = asyncio.Semaphore(0)
        self._behavior = behavior

    async def watch(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        try:
            async for message in self._behavior():
                yield message
        finally:
            self.closed.release()


@asynccontextmanager
async def serving(behavior: Behavior) -> AsyncIterator[tuple[Site, Any]]:
    """The site, and its method as a client calls it."""
    site = Site(behavior)
    server = grpc.aio.server(interceptors=[site.boundary])
    method: Any = grpc.unary_stream_rpc_method_handler(site.watch, request_deserializer=bytes)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("creditledger.Test", {"Watch": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            asyncio.timeout(LONG),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", SMALL_BUFFERS) as channel,
        ):
            yield site, channel.unary_stream("/creditledger.Test/Watch")
    finally:
        await server.stop(0)


async def for_ever() -> AsyncIterator[bytes]:
    while True:
        yield MESSAGE


async def rarely() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"message"
        await asyncio.sleep(2 * PATIENCE)


def reason_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, set[str]]:
    """Code, reason, and the details' types."""
    trailers: Any = dict(cast(Any, error.trailing_metadata()))
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, {each.TypeName().rpartition(".")[2] for each in status.details}


async def test_a_reader_that_does_not_read_is_ended_and_learns_why_once_it_reads() -> None:
    async with serving(for_ever) as (site, watch):
        stream = watch(b"")
        await site.closed.acquire()  # nobody has read anything

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
        code, reason, details = reason_of(caught.value)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW")
        assert "RetryInfo" in details
        assert site.boundary.counts.open["/creditledger.Test/Watch"] == 0


async def test_a_reader_that_reads_slowly_but_reads_is_not_ended() -> None:
    async with serving(for_ever) as (site, watch):
        stream = watch(b"")
        for _ in range(60):
            assert await stream.read() == MESSAGE
            await asyncio.sleep(PATIENCE / 20)
        assert site.closed.locked()
        stream.cancel()
        await site.closed.acquire()


async def test_a_stream_on_which_nothing_happens_for_long_is_not_ended() -> None:
    async with serving(rarely) as (_, watch):
        assert [message async for message in watch(b"")] == [b"message"] * 3


async def test_a_reader_that_leaves_instead_of_reading_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(for_ever) as (site, watch):
        stream = watch(b"")
        assert await stream.read() == MESSAGE
        stream.cancel()
        await site.closed.acquire()
        await asyncio.sleep(2 * PATIENCE)
        assert site.boundary.counts.open["/creditledger.Test/Watch"] == 0
    assert not caplog.records


async def test_a_reader_that_leaves_after_it_was_ended_unread_leaves_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(for_ever) as (site, watch):
        stream = watch(b"")
        await site.closed.acquire()
        stream.cancel()
        await asyncio.sleep(PATIENCE)
    assert not caplog.records


async def test_one_reader_that_does_not_read_takes_nothing_from_its_neighbours() -> None:
    async with serving(for_ever) as (site, watch):
        watch(b"")
        reader = watch(b"")
        while site.closed.locked():
            assert await reader.read() == MESSAGE
        assert await reader.read() == MESSAGE
        reader.cancel()


# ── The moment at which patience ends ─────────────────────────────────────────────────────────────────────────────


class Call:
    """A call's context whose reader takes a message only when ``reads`` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.written = 0
        self.code: grpc.StatusCode | None = None

    async def send_initial_metadata(self, _metadata: object) -> None:
        pass

    async def write(self, _message: object) -> None:
        await self.reads.wait()
        self.written += 1

    async def abort(self, code: grpc.StatusCode, *_details: object, **_more: object) -> None:
        self.code = code
        raise grpc.aio.AbortError


@pytest.fixture
def closed() -> list[str]:
    return []


@pytest.fixture
def stream_to(closed: list[str]) -> Iterator[Callable[[Call], Any]]:
    async def watch(_request: object, _context: object) -> AsyncIterator[str]:
        try:
            while True:
                yield "message"
        finally:
            closed.append("closed")

    async def call(context: Call) -> None:
        async def continuation(_details: object) -> Any:
            return grpc.unary_stream_rpc_method_handler(watch, request_deserializer=bytes)

        details = cast(grpc.HandlerCallDetails, type("Details", (), {"method": "/s/Watch"}))
        handler = await Boundary().intercept_service(continuation, details)
        await handler.unary_stream(b"", context)

    yield call


async def test_the_task_of_a_reader_that_was_too_slow_is_not_cancelled_any_further(
    stream_to: Callable[[Call], Any], closed: list[str]
) -> None:
    call = Call()
    task = asyncio.get_running_loop().create_task(stream_to(call))
    with pytest.raises(grpc.aio.AbortError):
        async with asyncio.timeout(LONG):
            await task
    assert (call.code, task.cancelling(), closed) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0, ["closed"])


async def test_a_call_that_is_cancelled_meanwhile_is_cancelled_and_not_answered(
    stream_to: Callable[[Call], Any], closed: list[str]
) -> None:
    call = Call()
    task = asyncio.get_running_loop().create_task(stream_to(call))
    await asyncio.sleep(PATIENCE / 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (call.code, closed) == (None, ["closed"])
    await asyncio.sleep(2 * PATIENCE)
    assert task.cancelled()
