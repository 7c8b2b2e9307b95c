# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""WatchUsage as an iterator that outlives its streams."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self, cast

import grpc
import grpc.aio

from creditledger._status import error_from_rpc
from creditledger._unary import is_task_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from creditledger.errors import CreditLedgerError
    from creditledger.v1.credit_ledger_pb2 import WatchUsageRequest, WatchUsageResponse

    OpenStream = Callable[[WatchUsageRequest], grpc._CallIterator[WatchUsageResponse]]
    OpenAsyncStream = Callable[
        [WatchUsageRequest], grpc.aio.UnaryStreamCall[WatchUsageRequest, WatchUsageResponse]
    ]

_log = logging.getLogger("creditledger")

_MIN_DELAY = 0.1
_MAX_DELAY = 5.0

# Without a reason of the server's own these come from what lies between: a reset connection, a proxy's
# restart or its limit on a stream's life.
_INTERRUPTIONS = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    }
)
_RESUMABLE_REASONS = frozenset({"WATCHER_TOO_SLOW", "SERVER_OVERLOADED"})


class _Position:
    """Where a watch stands, and how long it waits before its next stream. Does no I/O: both watches share it."""

    def __init__(self, request: WatchUsageRequest) -> None:
        # The request of the next stream: the first one, then with the cursor of the last message.
        self.request = request
        # Streams that ended since the last message.
        self._failures = 0

    @property
    def cursor(self) -> str | None:
        return self.request.cursor or None

    def received(self, message: WatchUsageResponse) -> WatchUsageResponse:
        self.request.cursor = message.cursor
        self._failures = 0
        return message

    def interrupted(self, cause: grpc.RpcError | str) -> float:
        """The seconds to wait before resuming; raises if what ended the stream would end the next one too."""
        delay = random.uniform(_MIN_DELAY, min(_MAX_DELAY, 2 * _MIN_DELAY * 2 ** min(self._failures, 10)))
        if isinstance(cause, grpc.RpcError):
            error = error_from_rpc(cause)
            if not _is_resumable(error):
                raise error from cause
            if error.retry_delay is not None:
                delay = max(delay, error.retry_delay.total_seconds())
            cause = str(error)
        self._failures += 1
        _log.warning("watch_usage was interrupted (%s); resuming in %.1f s", cause, delay)
        return delay


def _is_resumable(error: CreditLedgerError) -> bool:
    if error.code is grpc.StatusCode.UNAVAILABLE or error.reason in _RESUMABLE_REASONS:
        return True
    return not error.reason and error.code in _INTERRUPTIONS


class _Watchdog:
    """Cancels a stream whose next message has been awaited for too long.

    One thread looks now and then, because a timer per message would be a thread per message. It may cancel a
    stream whose message has just come; that costs a reconnect and loses nothing.
    """

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout
        # The awaited call and the time.monotonic() at which to give up. Swapped whole, so it needs no lock.
        self._awaited: tuple[grpc.Call, float] | None = None
        self._stopped = threading.Event()
        # Knows nothing of the watch, which is collected when it is dropped without close(), and then stops this.
        self._thread = threading.Thread(target=self._run, name="creditledger-watchdog", daemon=True)

    @contextmanager
    def awaiting(self, call: grpc.Call) -> Iterator[None]:
        if not self._thread.is_alive() and not self._stopped.is_set():
            self._thread.start()
        self._awaited = (call, time.monotonic() + self._idle_timeout)
        try:
            yield
        finally:
            self._awaited = None

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._idle_timeout / 10):
            awaited = self._awaited
            if awaited is not None and time.monotonic() >= awaited[1]:
                _log.warning("watch_usage got no message for %g s", self._idle_timeout)
                awaited[0].cancel()


class UsageWatch(Iterator["WatchUsageResponse"]):
    """An endless iterator of WatchUsageResponse that resumes by itself, from `CreditLedgerClient.watch_usage`.

    One thread iterates; any thread may close it. Closing it, or its client, ends the iteration.
    """

    def __init__(self, open_stream: OpenStream, request: WatchUsageRequest, idle_timeout: float) -> None:
        self._open_stream = open_stream
        self._position = _Position(request)
        self._watchdog = _Watchdog(idle_timeout)
        # Guards _call together with _closed, so that close() never misses a stream that is just being opened.
        self._lock = threading.Lock()
        self._call: grpc._CallIterator[WatchUsageResponse] | None = None
        self._closed = threading.Event()

    @property
    def cursor(self) -> str | None:
        """The cursor of the last message, or the one that the watch began with. Resumes it in any process."""
        return self._position.cursor

    def __next__(self) -> WatchUsageResponse:
        """Wait for the next message.

        Raises:
            CreditLedgerError: The server refuses the watch; resuming would not help. It is closed then.
        """
        while (call := self._current_call()) is not None:
            try:
                with self._watchdog.awaiting(call):
                    message = next(call)
                return self._position.received(message)
            except StopIteration:
                self._wait_after("the server ended the stream")
            except grpc.RpcError as error:
                self._wait_after(error)
        raise StopIteration

    def close(self) -> None:
        """End the iteration, also of a thread that waits in it. Closing again does nothing."""
        with self._lock:
            self._closed.set()
            call = self._call
        self._watchdog.stop()
        if call is not None:
            call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _current_call(self) -> grpc._CallIterator[WatchUsageResponse] | None:
        with self._lock:
            if self._closed.is_set():
                return None
            if self._call is None:
                self._call = self._open_stream(self._position.request)
            return self._call

    def _wait_after(self, cause: grpc.RpcError | str) -> None:
        self._call = None
        if self._closed.is_set():
            return
        try:
            delay = self._position.interrupted(cause)
        except Exception:
            self.close()
            raise
        self._closed.wait(delay)


class AsyncUsageWatch(AsyncIterator["WatchUsageResponse"]):
    """An endless async iterator of WatchUsageResponse; like UsageWatch it resumes by itself.

    One task iterates; any task of the same event loop may close it. Closing it, or its client, ends the
    iteration. A cancelled wait for a message loses none: iterate again to resume.
    """

    def __init__(self, open_stream: OpenAsyncStream, request: WatchUsageRequest, idle_timeout: float) -> None:
        self._open_stream = open_stream
        self._position = _Position(request)
        self._idle_timeout = idle_timeout
        self._call: grpc.aio.UnaryStreamCall[WatchUsageRequest, WatchUsageResponse] | None = None
        self._closed = asyncio.Event()

    @property
    def cursor(self) -> str | None:
        """The cursor of the last message, or the one that the watch began with. Resumes it in any process."""
        return self._position.cursor

    async def __anext__(self) -> WatchUsageResponse:
        """Wait for the next message.

        Raises:
            CreditLedgerError: The server refuses the watch; resuming would not help. It is closed then.
        """
        while not self._closed.is_set():
            try:
                message = await self._read()
            except grpc.RpcError as error:
                await self._wait_after(error)
            except TimeoutError:
                await self._wait_after(f"no message for {self._idle_timeout:g} s")
            except asyncio.CancelledError:
                self._drop_call()
                if is_task_cancelled():
                    raise
            else:
                if message is not None:
                    return self._position.received(message)
                await self._wait_after("the server ended the stream")
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the iteration, also of a task that waits in it. Closing again does nothing."""
        self._closed.set()
        self._drop_call()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # grpc.aio keeps a call alive until it has ended, so a watch that was dropped without close() must end it.
        self._drop_call()

    async def _read(self) -> WatchUsageResponse | None:
        """The next message of the stream, opened if there is none; None at its end."""
        if self._call is None:
            self._call = self._open_stream(self._position.request)
        async with asyncio.timeout(self._idle_timeout):
            message = await self._call.read()
        return None if message is grpc.aio.EOF else cast("WatchUsageResponse", message)

    async def _wait_after(self, cause: grpc.RpcError | str) -> None:
        self._drop_call()
        if self._closed.is_set():
            return
        try:
            delay = self._position.interrupted(cause)
        except Exception:
            self._closed.set()
            raise
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closed.wait()

    def _drop_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
