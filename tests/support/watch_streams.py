"""Streams of WatchUsage as tests read them."""

from __future__ import annotations

from typing import Any, Self

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from ledger_calls import TIMEOUT, Ledger
from ledger_load import rows

OFTEN = {"CREDITLEDGER_HEARTBEAT_SECONDS": "0.2"}
"""Settings of a server whose streams tell often that they are alive."""


class Watch:
    """A stream of one watcher."""

    def __init__(
        self,
        ledger: Ledger,
        *account_ids: str,
        cursor: str = "",
        kinds: Any = (),
        min_interval: float = 0,
        timeout: float = TIMEOUT,
    ) -> None:
        request = pb.WatchUsageRequest(account_ids=account_ids, cursor=cursor, kinds=kinds)
        if min_interval:
            request.min_interval.FromMicroseconds(round(min_interval * 1_000_000))
        self.stream = ledger.call(request, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stream.cancel()

    def heartbeat(self) -> pb.WatchUsageResponse:
        """The next message, if it is a heartbeat."""
        message: pb.WatchUsageResponse = next(self.stream)
        assert message.WhichOneof("event") == "heartbeat", message
        return message

    def next(self) -> pb.WatchUsageResponse:
        """The next message that is no heartbeat."""
        message: pb.WatchUsageResponse = next(self.stream)
        while message.WhichOneof("event") == "heartbeat":
            message = next(self.stream)
        return message

    def take(self, count: int) -> list[pb.WatchUsageResponse]:
        """The next messages that are no heartbeats."""
        return [self.next() for _ in range(count)]

    def changes(self, count: int) -> list[resources_pb2.Entry]:
        """The entries of the next messages, which are all changes."""
        return [entry_of(message) for message in self.take(count)]

    def until(self, event: str) -> list[pb.WatchUsageResponse]:
        """The messages up to the next one of a sort, which is the last of them."""
        messages: list[pb.WatchUsageResponse] = [next(self.stream)]
        while event_of(messages[-1]) != event:
            messages.append(next(self.stream))
        return messages

    def end(self) -> grpc.RpcError:
        """Reads to the end; the error that it ends with."""
        try:
            for _ in self.stream:
                pass
        except grpc.RpcError as error:
            return error
        raise AssertionError("the stream ended without an error")


def entry_of(message: pb.WatchUsageResponse) -> resources_pb2.Entry:
    assert message.WhichOneof("event") == "change", message
    return message.change.entry


def event_of(message: pb.WatchUsageResponse) -> str:
    return str(message.WhichOneof("event"))


def connections(dsn: str) -> int:
    """How many connections to the database servers have."""
    [(count,)] = rows(
        dsn,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'creditledger'",
    )
    return int(count)
