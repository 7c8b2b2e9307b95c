"""A watch goes on where its stream broke, and ends when it should."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from creditledger import (
    AsyncCreditLedgerClient,
    CreditLedgerClient,
    CreditLedgerError,
    CursorAhead,
    EntryKind,
    WatchUsageResponse,
    errors,
)
from creditledger._watch import _Position
from creditledger.v1.credit_ledger_pb2 import Heartbeat, WatchUsageRequest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from tests.client.conftest import FakeServer, StartServer

Code = grpc.StatusCode


def heartbeat(cursor: str) -> WatchUsageResponse:
    return WatchUsageResponse(cursor=cursor, heartbeat=Heartbeat())


def stream(
    *cursors: str, end: grpc.Status | None = None, stay: bool = False
) -> Callable[..., Iterator[Message]]:
    """A stream of messages with these cursors that then ends, with an error or well, or stays silent."""

    def serve(_: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        for cursor in cursors:
            yield heartbeat(cursor)
        if end is not None:
            context.abort_with_status(end)
        while stay and context.is_active():
            time.sleep(0.01)

    return serve


class Collect(Protocol):
    """The cursors of the first `count` messages of a watch."""

    def __call__(self, count: int, *args: Any, **kwargs: Any) -> list[str]: ...


@pytest.fixture(params=["sync", "async"])
def collect(request: pytest.FixtureRequest, server: FakeServer) -> Collect:
    def collect_sync(count: int, *args: Any, **kwargs: Any) -> list[str]:
        with CreditLedgerClient(server.target) as client, client.watch_usage(*args, **kwargs) as watch:
            return [next(watch).cursor for _ in range(count)]

    async def collect_async(count: int, *args: Any, **kwargs: Any) -> list[str]:
        async with (
            AsyncCreditLedgerClient(server.target) as client,
            client.watch_usage(*args, **kwargs) as watch,
        ):
            return [(await anext(watch)).cursor for _ in range(count)]

    if request.param == "sync":
        return collect_sync
    return lambda *args, **kwargs: asyncio.run(collect_async(*args, **kwargs))


def cursors_sent(server: FakeServer) -> list[str]:
    return [request.cursor for request in server.requests["WatchUsage"]]


def test_the_keywords_become_the_request(server: FakeServer, collect: Collect) -> None:
    server.answer("WatchUsage", stream("c1"))
    kinds = [EntryKind.ENTRY_KIND_DEDUCTED]
    collect(1, ["user-1", "user-2"], cursor="c0", min_interval=timedelta(seconds=1.5), kinds=kinds)
    (request,) = server.requests["WatchUsage"]
    assert list(request.account_ids) == ["user-1", "user-2"]
    assert request.cursor == "c0"
    assert request.min_interval == Duration(seconds=1, nanos=500_000_000)
    assert list(request.kinds) == kinds


def test_a_lone_account_id_is_not_taken_for_a_list_of_letters(server: FakeServer, collect: Collect) -> None:
    server.answer("WatchUsage", stream("c1"))
    collect(1, "user-1")
    assert list(server.requests["WatchUsage"][0].account_ids) == ["user-1"]


def test_without_arguments_it_asks_for_all_accounts_from_now(server: FakeServer, collect: Collect) -> None:
    server.answer("WatchUsage", stream("c1"))
    collect(1)
    (request,) = server.requests["WatchUsage"]
    assert not request.ListFields()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.UNAVAILABLE, "SHUTTING_DOWN"),
        (Code.UNAVAILABLE, "STORAGE_UNAVAILABLE"),
        (Code.UNAVAILABLE, ""),
        (Code.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW"),
        (Code.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED"),
        (Code.CANCELLED, ""),
        (Code.UNKNOWN, ""),
        (Code.INTERNAL, ""),
        (Code.DEADLINE_EXCEEDED, ""),
    ],
)
def test_an_interrupted_stream_is_resumed_from_the_last_cursor(
    server: FakeServer, collect: Collect, code: Code, reason: str
) -> None:
    server.answer("WatchUsage", stream("c1", "c2", end=server.error(code, reason)), stream("c3"))
    assert collect(3, "user-1") == ["c1", "c2", "c3"]
    first, second = server.requests["WatchUsage"]
    assert (first.cursor, second.cursor) == ("", "c2")
    second.cursor = ""
    assert second == first


def test_a_stream_that_ends_well_is_resumed_too(server: FakeServer, collect: Collect) -> None:
    server.answer("WatchUsage", stream("c1"), stream("c2"), stream("c3"))
    assert collect(3) == ["c1", "c2", "c3"]
    assert cursors_sent(server) == ["", "c1", "c2"]


def test_a_stream_that_breaks_before_its_first_message_begins_again(
    server: FakeServer, collect: Collect
) -> None:
    down = server.error(Code.UNAVAILABLE)
    server.answer("WatchUsage", stream(end=down), stream(end=down), stream("c1"))
    assert collect(1, cursor="c0") == ["c1"]
    assert cursors_sent(server) == ["c0", "c0", "c0"]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (Code.OUT_OF_RANGE, "CURSOR_AHEAD", errors.CursorAhead),
        (Code.OUT_OF_RANGE, "CURSOR_EXPIRED", errors.CursorExpired),
        (Code.INVALID_ARGUMENT, "CURSOR_INVALID", errors.CursorInvalid),
        (Code.NOT_FOUND, "ACCOUNT_NOT_FOUND", errors.AccountNotFound),
        (Code.UNAUTHENTICATED, "TOKEN_INVALID", errors.Unauthenticated),
        (Code.INTERNAL, "INTERNAL", errors.InternalError),
        (Code.RESOURCE_EXHAUSTED, "", errors.ResourceExhausted),
        (Code.UNIMPLEMENTED, "", errors.Unimplemented),
    ],
)
def test_a_refusal_is_raised(
    server: FakeServer, collect: Collect, code: Code, reason: str, expected: type[CreditLedgerError]
) -> None:
    server.answer("WatchUsage", stream("c1", end=server.error(code, reason)))
    with pytest.raises(expected) as caught:
        collect(2)
    assert caught.value.reason == reason
    assert not caught.value.outcome_unknown
    assert len(server.requests["WatchUsage"]) == 1


def test_a_silent_stream_is_given_up_and_resumed(server: FakeServer, collect: Collect) -> None:
    server.answer("WatchUsage", stream("c1", stay=True), stream("c2"))
    assert collect(2, idle_timeout=0.3) == ["c1", "c2"]
    assert cursors_sent(server) == ["", "c1"]


def test_the_wait_that_the_server_asks_for_is_kept(server: FakeServer, collect: Collect) -> None:
    wait = RetryInfo(retry_delay=Duration(nanos=700_000_000))
    server.answer(
        "WatchUsage", stream(end=server.error(Code.UNAVAILABLE, "SHUTTING_DOWN", {}, wait)), stream("c1")
    )
    begin = time.monotonic()
    collect(1)
    assert time.monotonic() - begin >= 0.7


def test_a_watch_outlives_its_server(free_port: int, start_server: StartServer) -> None:
    first = start_server(free_port)
    first.answer("WatchUsage", stream("c1", stay=True))
    with CreditLedgerClient(first.target) as client, client.watch_usage() as watch:
        assert next(watch).cursor == "c1"
        first.stop()
        second = start_server(free_port)
        second.answer("WatchUsage", stream("c2", stay=True))
        assert next(watch).cursor == "c2"
        assert cursors_sent(second) == ["c1"]


def test_the_wait_grows_with_each_failure_and_starts_anew_after_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans: list[tuple[float, float]] = []

    def record(low: float, high: float) -> float:
        spans.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", record)
    position = _Position(WatchUsageRequest())
    for _ in range(2_000):
        position.interrupted("down")
    assert spans[:6] == [(0.1, 0.2), (0.1, 0.4), (0.1, 0.8), (0.1, 1.6), (0.1, 3.2), (0.1, 5.0)]
    assert spans[-1] == (0.1, 5.0)
    position.received(heartbeat("c1"))
    assert position.interrupted("down") == 0.2
    assert position.cursor == "c1"


def test_each_interruption_is_logged(
    server: FakeServer, collect: Collect, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer("WatchUsage", stream(end=server.error(Code.UNAVAILABLE, "SHUTTING_DOWN")), stream("c1"))
    collect(1)
    (record,) = [record for record in caplog.records if record.name == "creditledger"]
    assert "SHUTTING_DOWN" in record.getMessage()


# --- The end of a watch, by threads


def in_a_thread(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_closing_ends_a_thread_that_waits_for_a_message(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", stay=True))
    received: list[WatchUsageResponse] = []
    with CreditLedgerClient(server.target) as client:
        watch = client.watch_usage()
        reader = in_a_thread(lambda: received.extend(watch))
        while watch.cursor is None:
            time.sleep(0.01)
        watch.close()
        reader.join(5)
        assert not reader.is_alive()
    assert [message.cursor for message in received] == ["c1"]
    assert len(server.requests["WatchUsage"]) == 1


def test_closing_the_client_ends_its_watches(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", stay=True))
    client = CreditLedgerClient(server.target)
    watch = client.watch_usage()
    reader = in_a_thread(lambda: list(watch))
    while watch.cursor is None:
        time.sleep(0.01)
    client.close()
    reader.join(5)
    assert not reader.is_alive()


def test_closing_ends_the_wait_between_two_streams(server: FakeServer) -> None:
    wait = RetryInfo(retry_delay=Duration(seconds=600))
    server.answer("WatchUsage", stream(end=server.error(Code.UNAVAILABLE, "SHUTTING_DOWN", {}, wait)))
    with CreditLedgerClient(server.target) as client:
        watch = client.watch_usage()
        reader = in_a_thread(lambda: list(watch))
        while not server.requests["WatchUsage"]:
            time.sleep(0.01)
        time.sleep(0.1)
        watch.close()
        reader.join(5)
        assert not reader.is_alive()


def test_a_closed_watch_is_at_its_end(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", "c2", stay=True))
    with CreditLedgerClient(server.target) as client:
        with client.watch_usage() as watch:
            next(watch)
        watch.close()
        assert list(watch) == []
        assert watch.cursor == "c1"


def test_a_refused_watch_is_at_its_end(server: FakeServer) -> None:
    server.answer("WatchUsage", stream(end=server.error(Code.OUT_OF_RANGE, "CURSOR_AHEAD")))
    with CreditLedgerClient(server.target) as client:
        watch = client.watch_usage()
        with pytest.raises(CursorAhead):
            next(watch)
        assert list(watch) == []


def test_a_watch_that_is_dropped_ends_its_stream_and_its_thread(server: FakeServer) -> None:
    ended = threading.Event()

    def serve(_: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        context.add_callback(ended.set)
        yield from stream("c1", stay=True)(_, context)

    def watchdogs() -> int:
        return sum(thread.name == "creditledger-watchdog" for thread in threading.enumerate())

    server.answer("WatchUsage", serve)
    with CreditLedgerClient(server.target) as client:
        for _ in client.watch_usage(idle_timeout=1):
            assert watchdogs() == 1
            break
        gc.collect()
        assert ended.wait(5)
        deadline = time.monotonic() + 5
        while watchdogs() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watchdogs() == 0


def test_a_slow_reader_is_not_taken_for_a_silent_server(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", "c2", "c3", stay=True))
    with CreditLedgerClient(server.target) as client, client.watch_usage(idle_timeout=0.2) as watch:
        for _ in range(3):
            next(watch)
            time.sleep(0.4)
    assert len(server.requests["WatchUsage"]) == 1


# --- The end of a watch, by tasks


async def started(watch: Any) -> None:
    while watch.cursor is None:  # noqa: ASYNC110 - a watch has no event of its own
        await asyncio.sleep(0.01)


async def drain(watch: Any) -> list[str]:
    return [message.cursor async for message in watch]


@pytest.mark.parametrize("whole_client", [False, True])
async def test_closing_ends_a_task_that_waits_for_a_message(server: FakeServer, whole_client: bool) -> None:
    server.answer("WatchUsage", stream("c1", stay=True))
    async with AsyncCreditLedgerClient(server.target) as client, asyncio.TaskGroup() as tasks:
        watch = client.watch_usage()
        reader = tasks.create_task(drain(watch))
        await started(watch)
        await (client.close() if whole_client else watch.close())
        assert await asyncio.wait_for(reader, 5) == ["c1"]
    assert len(server.requests["WatchUsage"]) == 1


async def test_closing_ends_the_wait_of_a_task_between_two_streams(server: FakeServer) -> None:
    wait = RetryInfo(retry_delay=Duration(seconds=600))
    server.answer("WatchUsage", stream("c1", end=server.error(Code.UNAVAILABLE, "SHUTTING_DOWN", {}, wait)))
    async with AsyncCreditLedgerClient(server.target) as client, asyncio.TaskGroup() as tasks:
        watch = client.watch_usage()
        reader = tasks.create_task(drain(watch))
        await started(watch)
        await asyncio.sleep(0.1)
        await watch.close()
        assert await asyncio.wait_for(reader, 5) == ["c1"]


async def test_a_cancelled_wait_loses_no_message(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", stay=True), stream("c2", stay=True))
    async with AsyncCreditLedgerClient(server.target) as client, client.watch_usage() as watch:
        assert (await anext(watch)).cursor == "c1"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(watch)
        assert (await anext(watch)).cursor == "c2"
    assert cursors_sent(server) == ["", "c1"]


async def test_a_cancelled_task_is_cancelled_and_not_resumed(server: FakeServer) -> None:
    server.answer("WatchUsage", stream("c1", stay=True))
    async with AsyncCreditLedgerClient(server.target) as client, asyncio.TaskGroup() as tasks:
        watch = client.watch_usage()
        reader = tasks.create_task(drain(watch))
        await started(watch)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert len(server.requests["WatchUsage"]) == 1


async def test_a_refused_async_watch_is_at_its_end(server: FakeServer) -> None:
    server.answer("WatchUsage", stream(end=server.error(Code.OUT_OF_RANGE, "CURSOR_AHEAD")))
    async with AsyncCreditLedgerClient(server.target) as client:
        watch = client.watch_usage()
        with pytest.raises(CursorAhead):
            await anext(watch)
        assert await drain(watch) == []


async def test_an_async_watch_that_is_dropped_ends_its_stream(server: FakeServer) -> None:
    ended = threading.Event()

    def serve(_: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        context.add_callback(ended.set)
        yield from stream("c1", stay=True)(_, context)

    server.answer("WatchUsage", serve)
    async with AsyncCreditLedgerClient(server.target) as client:
        async for _ in client.watch_usage():
            break
        gc.collect()
        assert await asyncio.to_thread(ended.wait, 5)
