"""Streams of WatchUsage, held open in a process of their own: call these in one worker of ``process_pool(1)``.

The streams live on an event loop in a thread of that process, from one call to the next. While they receive, messages
are kept as bytes with their time; they are parsed when asked for.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import grpc.aio
import uvloop
from creditledger.v1.credit_ledger_pb2 import DeductRequest, WatchUsageRequest, WatchUsageResponse

from .generators import _OPTIONS, _SECONDS, _SERVICE
from .site import OPERATION, BenchError

T = TypeVar("T")

WINDOW = 8  # entries that are not with every stream yet, in a fan-out
_PER_CHANNEL = 250
_OPENED_AT_ONCE = 64
_PAUSE = 0.02


class Told(NamedTuple):
    """A message: the revisions it covers, its entry's hash (empty for a summary), its time.monotonic() here."""

    first: int
    last: int
    hash: bytes
    at: float


class Delivered(NamedTuple):
    """A stream: the revision of its snapshot, all that it was told since, and why it ended, if it has."""

    account_id: str
    revision: int
    told: list[Told]
    ended: str


class FannedOut(NamedTuple):
    """When the first deduction of a fan-out was sent, in time.monotonic(), and this process's CPU seconds for it."""

    begin: float
    cpu_seconds: float


class _Stream:
    def __init__(self, watching: _Watching, account_id: str) -> None:
        self.delivered = Delivered(account_id, 0, [], "")
        self._watching = watching
        self._received: list[tuple[float, bytes]] = []
        self._reading: asyncio.Task[None] | None = None

    async def open(self, channel: grpc.aio.Channel) -> None:
        """Returns once the first message is there."""
        request = WatchUsageRequest(account_ids=[self.delivered.account_id])
        watch: Any = channel.unary_stream(f"{_SERVICE}/WatchUsage")
        messages = aiter(watch(request.SerializeToString()))
        try:
            async with asyncio.timeout(_SECONDS):
                first = WatchUsageResponse.FromString(await anext(messages))
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise BenchError(f"a stream could not be opened: {_reason(error)}") from error
        self.delivered = self.delivered._replace(revision=first.snapshot.revision)
        self._reading = asyncio.get_running_loop().create_task(self._read(messages))

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        watching, received, now = self._watching, self._received, time.monotonic
        try:
            async for message in messages:
                received.append((now(), message))
                watching.count += 1
                if watching.count == watching.awaited:
                    watching.arrived.set()
        except grpc.aio.AioRpcError as error:
            self.delivered = self.delivered._replace(ended=_reason(error))

    def parse(self) -> Delivered:
        """What was delivered so far."""
        received = self._received.copy()
        self._received.clear()
        for at, message in received:
            told = WatchUsageResponse.FromString(message)
            if told.HasField("change"):
                entry = told.change.entry
                self.delivered.told.append(Told(entry.revision, entry.revision, entry.hash, at))
            elif told.HasField("summary"):
                summary = told.summary
                self.delivered.told.append(Told(summary.from_revision, summary.to_revision, b"", at))
        return self.delivered

    def reached(self) -> int:
        """The last revision it was told of."""
        delivered = self.parse()
        return delivered.told[-1].last if delivered.told else delivered.revision

    async def close(self) -> None:
        """Cancels it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


class _Watching:
    """All streams of this process, and its event loop."""

    def __init__(self) -> None:
        self.count = 0  # messages after the first ones, of all streams
        self.awaited = -1
        self.arrived = asyncio.Event()
        self._loop = uvloop.new_event_loop()
        self._streams: list[_Stream] = []
        self._channels: list[grpc.aio.Channel] = []
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the streams' event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def open(self, target: str, accounts: Sequence[str]) -> None:
        gate = asyncio.Semaphore(_OPENED_AT_ONCE)

        async def open_one(stream: _Stream, channel: grpc.aio.Channel) -> None:
            async with gate:
                await stream.open(channel)

        opening = []
        for place, account in enumerate(accounts):
            if place % _PER_CHANNEL == 0:
                self._channels.append(grpc.aio.insecure_channel(target, _OPTIONS))
            self._streams.append(_Stream(self, account))
            opening.append(open_one(self._streams[-1], self._channels[-1]))
        await asyncio.gather(*opening)

    async def collect(self, revisions: Mapping[str, int], seconds: float) -> list[Delivered]:
        end = time.monotonic() + seconds
        behind = list(self._streams)
        while behind and time.monotonic() < end:
            behind = [
                stream
                for stream in behind
                if stream.reached() < revisions.get(stream.delivered.account_id, 0)
                and not stream.delivered.ended
            ]
            if behind:
                await asyncio.sleep(_PAUSE)
        return [stream.parse() for stream in self._streams]

    async def fan_out(self, target: str, account: str, entries: int) -> FannedOut:
        requests = [_deduction(account) for _ in range(entries)]
        async with grpc.aio.insecure_channel(target, _OPTIONS) as channel:
            deduct: Any = channel.unary_unary(f"{_SERVICE}/Deduct")
            await channel.channel_ready()
            before, calls = self.count, []
            begin, cpu = time.monotonic(), time.process_time()
            for number, request in enumerate(requests):
                await self._all_have(before, number - WINDOW + 1)
                calls.append(deduct(request, timeout=_SECONDS))
            await self._all_have(before, entries)
            cpu = time.process_time() - cpu
            await asyncio.gather(*calls)
        return FannedOut(begin, cpu)

    async def _all_have(self, before: int, entries: int) -> None:
        """Waits until as many messages have come as ``entries`` make with one for each stream."""
        self.awaited = before + entries * len(self._streams)
        if self.count >= self.awaited:
            return
        self.arrived.clear()
        try:
            async with asyncio.timeout(_SECONDS):
                await self.arrived.wait()
        except TimeoutError:
            count = self.count - before
            raise BenchError(f"the streams got {count} messages of {self.awaited - before}") from None

    async def close(self) -> None:
        await asyncio.gather(*[stream.close() for stream in self._streams])
        await asyncio.gather(*[channel.close() for channel in self._channels])
        self._streams.clear()
        self._channels.clear()


_watching = cache(_Watching)


def open_streams(target: str, accounts: Sequence[str]) -> None:
    """Opens a stream for each account, beside those that are open; returns when each has told its snapshot."""
    _watching().run(_watching().open(target, accounts))


def collect(revisions: Mapping[str, int], seconds: float) -> list[Delivered]:
    """What all streams delivered since they were opened.

    Waits, but not for more than ``seconds``, until each has reached its account's revision or has ended.
    """
    return _watching().run(_watching().collect(revisions, seconds))


def fan_out(target: str, account: str, entries: int) -> FannedOut:
    """Deducts from an account that all streams watch: the next one when all but the last 8 are with every stream."""
    return _watching().run(_watching().fan_out(target, account, entries))


def close_streams() -> None:
    """Closes all of them."""
    _watching().run(_watching().close())


def _deduction(account: str) -> bytes:
    return DeductRequest(
        request_id=uuid.uuid4().hex, account_id=account, operation=OPERATION
    ).SerializeToString()


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"no message in {_SECONDS:g} s"
