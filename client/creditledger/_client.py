# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The client for threads."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Self

import grpc

from creditledger._batching import SyncBatcher
from creditledger._channel import channel_options
from creditledger._methods import LedgerMethods, watch_request
from creditledger._sync_block import ReservingCaller
from creditledger._watch import UsageWatch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from types import TracebackType

    from creditledger.v1.resources_pb2 import EntryKind


class CreditLedgerClient(LedgerMethods, ReservingCaller):
    """A client of a creditledger server. Any number of threads may share one.

    Methods take keywords, return the generated messages and raise CreditLedgerError. A mutation without a
    request_id draws one for the call and its retries. Only UNAVAILABLE is retried, and what
    a server that shuts down CANCELLED: up to 5 attempts within the timeout, each the very same message.

    Create it where it is used: after a fork (gunicorn and celery fork their workers; gRPC does not survive a
    fork once it was used), and never to be sent to another process: it cannot be pickled. Close it, or use it
    as a context manager.

        with CreditLedgerClient("localhost:50051") as ledger:
            response = ledger.deduct("user-1", "script_generation")

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
            channel = grpc.insecure_channel(target, arguments)
        else:
            channel = grpc.secure_channel(target, credentials, arguments)
        self._start(channel, timeout, batching)

    @classmethod
    def from_channel(cls, channel: grpc.Channel, *, timeout: float = 5.0, batching: bool = False) -> Self:
        """A client over your own channel, whose retries and keepalive apply, and which `close` closes."""
        client = cls.__new__(cls)
        client._start(channel, timeout, batching)
        return client

    def _start(self, channel: grpc.Channel, timeout: float, batching: bool) -> None:
        super().__init__(channel, timeout)
        self._channel = channel
        self._batcher = SyncBatcher(self._stubs) if batching else None
        self._watches: weakref.WeakSet[UsageWatch] = weakref.WeakSet()
        # Guards _watches, which other threads may add to while close() reads it.
        self._lock = threading.Lock()

    def watch_usage(
        self,
        account_ids: str | Iterable[str] = (),
        *,
        cursor: str | None = None,
        min_interval: timedelta | None = None,
        kinds: Iterable[EntryKind.ValueType] = (),
        idle_timeout: float = 45.0,
    ) -> UsageWatch:
        """Watch accounts: an endless iterator of what happens to them, in order and without a gap.

        Without a cursor the first message of each listed account is a snapshot. The iterator resumes by
        itself, after a wait of 0.1 to 5 s, when the connection or the server goes away; keep its `cursor` to
        resume in another process.

            with ledger.watch_usage("user-1") as watch:
                for message in watch:
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
        watch = UsageWatch(self._stubs.ledger.WatchUsage, request, idle_timeout)
        with self._lock:
            self._watches.add(watch)
        return watch

    def close(self) -> None:
        """End all watches and calls, and close the connection. Closing again does nothing."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        if self._batcher is not None:
            self._batcher.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
