# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""One definition of a unary method for both clients.

A method is written once, as a function from its keywords to its request message. `rpc` makes it a descriptor:
a method that returns the response on a SyncCaller, and one that returns a coroutine of it on an AsyncCaller.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

import grpc
import grpc.aio

from creditledger._status import error_from_rpc
from creditledger.errors import Cancelled
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from google.protobuf.message import Message

    from creditledger._batching import AsyncBatcher, SyncBatcher

P = ParamSpec("P")
RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT")


class Stubs:
    """The stubs of both services over one channel. Typed as sync ones; over an aio channel they are async."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.ledger: CreditLedgerStub = CreditLedgerStub(channel)
        self.admin: LedgerAdminStub = LedgerAdminStub(channel)


class Caller:
    """What both clients keep for their calls."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel, timeout: float) -> None:
        self._stubs = Stubs(channel)
        self._timeout = timeout

    def _seconds(self, kwargs: dict[str, Any]) -> float:
        """The timeout among the keywords of a call, or else the client's."""
        timeout: float | None = kwargs.get("timeout")
        return self._timeout if timeout is None else timeout

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds open connections and cannot be pickled or copied;"
            " create one in each process, after it has forked"
        )


class SyncCaller(Caller):
    """Makes unary calls and waits for their answers."""

    _batcher: SyncBatcher | None

    def _call(self, method: Rpc[..., RequestT, ResponseT], request: RequestT, seconds: float) -> ResponseT:
        if self._batcher is not None and method.batchable:
            return cast("ResponseT", self._batcher.call(cast("Any", method), cast("Any", request), seconds))
        return method.send(self._stubs, request, seconds)


class AsyncCaller(Caller):
    """Makes unary calls and awaits their answers."""

    _batcher: AsyncBatcher | None

    async def _call(
        self, method: Rpc[..., RequestT, ResponseT], request: RequestT, seconds: float
    ) -> ResponseT:
        if self._batcher is not None and method.batchable:
            response = await self._batcher.call(cast("Any", method), cast("Any", request), seconds)
            return cast("ResponseT", response)
        return await method.send_async(self._stubs, request, seconds)


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


class Rpc(Generic[P, RequestT, ResponseT]):
    """A unary method. Reached through a client, or its class, it is a plain method of that client."""

    def __init__(
        self,
        stub: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        build: Callable[Concatenate[Any, P], RequestT],
        mutates: bool,
        batchable: bool,
    ) -> None:
        self._stub = stub
        self._mutates = mutates
        self.batchable = batchable
        # For help() and the like: each XRequest is answered by an XResponse, and that is what callers get.
        build.__annotations__["return"] = build.__annotations__["return"].replace("Request", "Response")

        @functools.wraps(build)
        def call(caller: SyncCaller, *args: P.args, **kwargs: P.kwargs) -> ResponseT:
            return caller._call(self, build(caller, *args, **kwargs), caller._seconds(kwargs))

        @functools.wraps(build)
        async def call_async(caller: AsyncCaller, *args: P.args, **kwargs: P.kwargs) -> ResponseT:
            return await caller._call(self, build(caller, *args, **kwargs), caller._seconds(kwargs))

        self._function, self._async_function = call, call_async

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

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, instance: SyncCaller, owner: type) -> Callable[P, ResponseT]: ...
    @overload
    def __get__(self, instance: AsyncCaller, owner: type) -> Callable[P, Coroutine[Any, Any, ResponseT]]: ...
    def __get__(self, instance: Caller | None, owner: type) -> Callable[..., Any]:
        function: Any = self._async_function if issubclass(owner, AsyncCaller) else self._function
        return cast("Callable[..., Any]", function.__get__(instance, owner))


def rpc(
    stub: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
    *,
    mutates: bool = False,
    batchable: bool = False,
) -> Callable[[Callable[Concatenate[Any, P], RequestT]], Rpc[P, RequestT, ResponseT]]:
    """Makes a function from keywords to a request message the method of that stub.

    The function also declares `timeout: float | None`, for its type; the callers read it from the keywords.

    Args:
        stub: Picks the stub; its types are what the function's request and the method's response are checked
            against.
        mutates: Whether the request carries one request id, or `requests` that each do.
        batchable: Whether a client with batching=True sends concurrent calls of it together.
    """
    return lambda build: Rpc(stub, build, mutates, batchable)
