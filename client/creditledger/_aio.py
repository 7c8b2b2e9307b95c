# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The client for asyncio."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
import grpc.aio

from creditledger._async_block import AsyncReservingCaller
from creditledger._batching import AsyncBatcher
from creditledger._channel import channel_options
from creditledger._methods import LedgerMethods, watch_request
from creditledger._watch import AsyncUsageWatch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from types import TracebackType

    from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerAsyncStub
    from creditledger.v1.resources_pb2 import EntryKind


class AsyncCreditLedgerClient(LedgerMethods, AsyncReservingCaller):
    """A client of a creditledger server for asyncio. Any number of tasks of one event loop may share one.

    Methods take keywords, return the generated messages and raise CreditLedgerError. A mutation without a
    request_id draws one for the call and its retries. Only UNAVAILABLE is retried, and what
    a server that shuts down CANCELLED: up to 5 attempts within the timeout, each the very same message.

    It belongs to the event loop that runs where it is created, and no other. Create it after a fork (gunicorn
    and celery fork their workers; gRPC does not survive a fork once it was used); it cannot be pickled. Close
    it, or use it as an async context manager.

        async with AsyncCreditLedgerClient("localhost:50051") as ledger:
            response = await ledger.deduct("user-1", "script_generation")

    A cancelled task leaves the outcome of its mutation unknown; give such a call a request_id of your own, so
    that it can be sent again.

    Args:
        target: Where the server is, for example "localhost:50051" or "dns:///ledger.internal:50051".
        timeout: Seconds for a unary call with its retries, unless the call has a timeout of its own.
        credentials: grpc.ssl_channel_credentials() or the like. None sends everything in the clear: for
            loopback and private networks.
        options: gRPC channel arguments, added to those of this package or replacing them by name.
        batching: Whether `deduct` calls that are made at the same time travel together, up to 500 at once. Each
            returns or raises what it would by itself, within its own timeout; none waits longer than about
            0.1 s to be sent. It pays with dozens of calls at once; the package's README tells when it does not.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, Any]] = (),
        batching: bool = False,
    ) -> None:
        arguments = channel_options(options)
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, arguments)
        else:
            channel = grpc.aio.secure_channel(target, credentials, arguments)
        self._start(channel, timeout, batching)

    @classmethod
    def from_channel(cls, channel: grpc.aio.Channel, *, timeout: float = 5.0, batching: bool = False) -> Self:
        """A client over your own channel, whose retries and keepalive apply, and which `close` closes."""
        client = cls.__new__(cls)
        client._start(channel, timeout, batching)
        return client

    def _start(self, channel: grpc.aio.Channel, timeout: float, batching: bool) -> None:
        super().__init__(channel, timeout)
        self._channel = channel
        self._batcher = AsyncBatcher(self._stubs) if batching else None
        self._watches: weakref.WeakSet[AsyncUsageWatch] = weakref.WeakSet()

    def watch_usage(
        self,
        account_ids: str | Iterable[str] = (),
        *,
        cursor: str | None = None,
        min_interval: timedelta | None = None,
        kinds: Iterable[EntryKind.ValueType] = (),
        idle_timeout: float = 45.0,
    ) -> AsyncUsageWatch:
        """Watch accounts: an endless async iterator of what happens to them, in order and without a gap.

        Without a cursor the first message of each listed account is a snapshot. The iterator resumes by
        itself, after a wait of 0.1 to 5 s, when the connection or the server goes away; keep its `cursor` to
        resume in another process.

            async with ledger.watch_usage("user-1") as watch:
                async for message in watch:
                    match message.WhichOneof("event"):
                        case "snapshot":
                            show(message.snapshot.balance)
                        case "change":
                            show(message.change.entry.balance)

        Args:
            account_ids: At most 1,000; empty for all that the caller may read.
            cursor: The cursor of the last message received, with the same account_ids; None for from now.
            min_interval: At most one message per account in this time, changes in between as a summary; up to
                1 h. None for every entry.
            kinds: Only entries of these kinds; empty for all.
            idle_timeout: Seconds without a message after which to reconnect; servers send a heartbeat about
                every 15 s.

        Raises:
            CursorInvalid, CursorAhead, CursorExpired: From the iterator; the cursor cannot be resumed from.
            CreditLedgerError: From the iterator; the server refuses the watch.
        """
        request = watch_request(account_ids, cursor, min_interval, kinds)
        stub = cast("CreditLedgerAsyncStub", self._stubs.ledger)
        watch = AsyncUsageWatch(stub.WatchUsage, request, idle_timeout)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """End all watches and calls, and close the connection. Closing again does nothing."""
        for watch in list(self._watches):
            await watch.close()
        if self._batcher is not None:
            await self._batcher.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
