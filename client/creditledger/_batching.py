# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Concurrent `deduct` calls of one client travel together, as items of BatchDeduct calls.

No timer gathers them: an idle client sends at once, and what arrives while enough batches are under way waits and
goes with the next one. Every call keeps its own request id, deadline and retries, and gets its own answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, cast

import grpc

from creditledger._batches import (
    ALONE_BYTES,
    MAX_IN_FLIGHT,
    Batch,
    Batcher,
    Waiting,
    backoffs,
    closed,
    is_unavailable,
    late,
    response_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from creditledger._batches import Answer
    from creditledger._unary import Stubs, Unary
    from creditledger.v1.credit_ledger_pb2 import BatchDeductResponse, DeductRequest, DeductResponse
    from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerAsyncStub

    Deduct = Unary[DeductRequest, DeductResponse]

STALL_SECONDS = 0.1
"""So long a batch keeps others waiting; then they go although it has not ended."""


class AsyncWaiting(Waiting):
    """A call that a task awaits."""

    __slots__ = ("future",)
    future: asyncio.Future[Answer]

    def has_left(self, now: float) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.deadline <= now or self.future.done()

    def end(self, answer: Answer) -> None:
        """Ends the attempt, unless it has ended or the task was cancelled."""
        if not self.future.done():
            self.future.set_result(answer)


class AsyncBatcher(Batcher[AsyncWaiting]):
    """Sends the calls of an asyncio client."""

    def __init__(self, stubs: Stubs) -> None:
        super().__init__(stubs)
        self._ledger = cast("CreditLedgerAsyncStub", stubs.ledger)
        self._calls: set[AsyncWaiting] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending_soon = False
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, unary: Deduct, request: DeductRequest, seconds: float) -> DeductResponse:
        """What the single call returns or raises."""
        loop = asyncio.get_running_loop()
        call = AsyncWaiting(request, loop.time() + seconds)
        if self._closed or call.size > ALONE_BYTES:
            return await unary.send_async(self._stubs, request, seconds)
        self._calls.add(call)
        self._end_by(call.deadline, loop)
        try:
            answer = await self._attempts(call, loop)
        finally:
            self._calls.discard(call)
        if answer is None:
            return await unary.send_async(self._stubs, request, call.deadline - loop.time())
        return response_of(answer, request)

    async def _attempts(self, call: AsyncWaiting, loop: asyncio.AbstractEventLoop) -> Answer:
        call.future = loop.create_future()
        self._put(call, loop)
        answer = await call.future
        for backoff in backoffs(answer):
            call.future = loop.create_future()
            loop.call_later(backoff, self._put, call, loop)
            answer = await call.future
            if not is_unavailable(answer):
                break
        return answer

    def _put(self, call: AsyncWaiting, loop: asyncio.AbstractEventLoop) -> None:
        self._queue.append(call)
        self._send_soon(loop)

    def _send_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: whoever else runs in this turn of the loop, such as the callers of the last batch, comes along.
        if self._queue and not self._sending_soon and len(self._in_flight) < MAX_IN_FLIGHT:
            self._sending_soon = True
            loop.call_soon(self._send_all, loop)

    def _send_all(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sending_soon = False
        while batch := self._next(loop.time()):
            task = loop.create_task(self._send(batch, loop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: Batch[AsyncWaiting], loop: asyncio.AbstractEventLoop) -> None:
        stall = loop.call_later(STALL_SECONDS, self._release, batch, loop)
        try:
            seconds = batch.seconds(loop.time())
            answers = batch.answers(await self._ledger.BatchDeduct(batch.request(), timeout=seconds))
        except (Exception, asyncio.CancelledError) as error:
            answers = batch.failures(error)
        for call, answer in zip(batch.calls, answers, strict=True):
            call.end(answer)
        stall.cancel()
        self._release(batch, loop)

    def _release(self, batch: Batch[AsyncWaiting], loop: asyncio.AbstractEventLoop) -> None:
        self._in_flight.discard(batch)
        self._send_soon(loop)

    def _end_by(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Sees to it that calls end by their deadlines, with one timer for all: they rarely need it."""
        if self._alarm is None or deadline < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(deadline, self._end_late_calls, loop)

    def _end_late_calls(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        now = loop.time()
        for call in self._calls:
            if call.deadline <= now:
                call.end(late(call))
        if waiting := [call.deadline for call in self._calls if call.deadline > now]:
            self._end_by(min(waiting), loop)

    async def close(self) -> None:
        """Ends all calls."""
        self._closed = True
        for call in self._calls:
            call.end(closed(call))
        if self._alarm is not None:
            self._alarm.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SyncWaiting(Waiting):
    """A call that a thread waits for."""

    __slots__ = ("answer", "ready")

    def begin(self) -> None:
        """Begins an attempt."""
        self.is_queued = True
        self.answer: Answer = None
        self.ready = threading.Lock()  # The cheapest thing that a thread can wait for once.
        self.ready.acquire()

    def seconds_left(self) -> float:
        """How long the thread may still wait."""
        return min(max(0.0, self.deadline - time.monotonic()), threading.TIMEOUT_MAX)

    def end(self, answer: Answer) -> None:
        """Ends the attempt, and wakes the thread if it still waits."""
        self.answer = answer
        self.ready.release()


class SyncBatcher(Batcher[SyncWaiting]):
    """Sends the calls of a client for threads.

    It has no thread of its own: a batch is sent by the caller that finds room for one, or by the thread in which gRPC
    tells that one has ended.
    """

    def __init__(self, stubs: Stubs) -> None:
        super().__init__(stubs)
        # Guards the queue, what is in flight, and is_queued of the calls.
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def call(self, unary: Deduct, request: DeductRequest, seconds: float) -> DeductResponse:
        """What the single call returns or raises."""
        call = SyncWaiting(request, time.monotonic() + seconds)
        alone = self._closed.is_set() or call.size > ALONE_BYTES
        answer = None if alone else self._attempts(call)
        if answer is None:
            return unary.send(self._stubs, request, call.deadline - time.monotonic())
        return response_of(answer, request)

    def _attempts(self, call: SyncWaiting) -> Answer:
        call.begin()
        if (batch := self._put(call)) is not None and batch.calls == [call]:
            return self._send_one(batch, call)
        answer = self._wait(call, batch)
        for backoff in backoffs(answer):
            if self._closed.wait(min(backoff, call.seconds_left())):
                return closed(call)
            call.begin()
            answer = self._wait(call, self._put(call))
            if not is_unavailable(answer):
                break
        return answer

    def _put(self, call: SyncWaiting) -> Batch[SyncWaiting] | None:
        """Queues the call; returns what is to be sent now."""
        with self._lock:
            if self._closed.is_set():
                call.end(closed(call))
                return None
            self._queue.append(call)
            return self._next(time.monotonic())

    def _wait(self, call: SyncWaiting, batch: Batch[SyncWaiting] | None) -> Answer:
        if batch is not None:
            self._send(batch)
        if call.ready.acquire(timeout=min(STALL_SECONDS, call.seconds_left())):
            return call.answer
        if (batch := self._next_after_stall(call)) is not None:
            self._send(batch)
        return call.answer if call.ready.acquire(timeout=call.seconds_left()) else late(call)

    def _next_after_stall(self, call: SyncWaiting) -> Batch[SyncWaiting] | None:
        with self._lock:
            now = time.monotonic()
            if not call.is_queued or call.has_left(now):
                return None
            # Calls go in their order, so whatever is in flight went before this one came.
            self._in_flight.clear()
            return self._next(now)

    def _send_one(self, batch: Batch[SyncWaiting], call: SyncWaiting) -> Answer:
        """Sends a call that has no company, in its own thread: the quickest way."""
        try:
            return self._stubs.ledger.Deduct(call.request, timeout=call.deadline - time.monotonic())
        except grpc.RpcError as error:
            return error
        finally:
            self._release(batch)

    def _send(self, batch: Batch[SyncWaiting]) -> None:
        seconds = batch.seconds(time.monotonic())
        try:
            future = self._stubs.ledger.BatchDeduct.future(batch.request(), timeout=seconds)
        except Exception as error:  # the channel was closed
            self._end(batch, batch.failures(error))
        else:
            future.add_done_callback(lambda future: self._receive(batch, future))

    def _receive(self, batch: Batch[SyncWaiting], future: grpc.Future[BatchDeductResponse]) -> None:
        try:
            answers = batch.answers(future.result())
        except Exception as error:
            answers = batch.failures(error)
        self._end(batch, answers)

    def _end(self, batch: Batch[SyncWaiting], answers: Sequence[Answer]) -> None:
        self._release(batch)
        for call, answer in zip(batch.calls, answers, strict=True):
            call.end(answer)

    def _release(self, batch: Batch[SyncWaiting]) -> None:
        with self._lock:
            self._in_flight.discard(batch)
            following = self._next(time.monotonic())
        if following is not None:
            self._send(following)

    def close(self) -> None:
        """Ends the calls that are not under way; those that are end with the channel."""
        self._closed.set()
        with self._lock:
            held = list(self._queue)
            self._queue.clear()
        for call in held:
            call.end(closed(call))
