# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""One unary RPC: sends its requests, raises what they end with as errors of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import grpc
import grpc.aio

from creditledger._status import error_from_rpc
from creditledger.errors import Cancelled
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT")


class Stubs:
    """The stubs of both services over one channel. Typed as sync ones; over an aio channel they are async."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.ledger: CreditLedgerStub = CreditLedgerStub(channel)
        self.admin: LedgerAdminStub = LedgerAdminStub(channel)


class Unary(Generic[RequestT, ResponseT]):
    """A unary RPC of either service."""

    def __init__(
        self,
        stub: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        mutates: bool,
        batchable: bool,
    ) -> None:
        self._stub = stub
        self._mutates = mutates
        self.batchable = batchable

    def send(self, stubs: Stubs, request: RequestT, seconds: float) -> ResponseT:
        """Sends a request and waits for the answer."""
        try:
            return self._stub(stubs)(request, timeout=seconds)
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._request_ids(request)) from error

    async def send_async(self, stubs: Stubs, request: RequestT, seconds: float) -> ResponseT:
        """Sends a request and awaits the answer."""
        stub = cast("grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]", self._stub(stubs))
        try:
            return await stub(request, timeout=seconds)
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._request_ids(request)) from error
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            raise closed_error(self._request_ids(request)) from None

    def _request_ids(self, request: RequestT) -> tuple[str, ...]:
        """The ids of the mutations in a request; none if the method only reads."""
        if not self._mutates:
            return ()
        items: Iterable[Any] = getattr(request, "requests", (request,))
        return tuple(item.request_id for item in items)


def closed_error(request_ids: tuple[str, ...]) -> Cancelled:
    """The error of a call whose client was closed before its answer came."""
    return Cancelled(
        "the client was closed",
        code=grpc.StatusCode.CANCELLED,
        request_ids=request_ids,
        outcome_unknown=bool(request_ids),
    )


def is_task_cancelled() -> bool:
    """Whether a CancelledError is meant for the current task.

    grpc.aio raises it also when only the call was cancelled, by closing its channel. Passed on, that one
    would end a task that nobody has cancelled, and without a trace.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
