# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""One definition of a unary method for both clients.

A method is written once, as a function from its keywords to its request message. `rpc` makes it a descriptor:
a method that returns the response on a SyncCaller, and one that returns a coroutine of it on an AsyncCaller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, cast, overload

from creditledger._callers import AsyncCaller, Caller, SyncCaller
from creditledger._unary import RequestT, ResponseT, Unary

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import grpc

    from creditledger._unary import Stubs

P = ParamSpec("P")


class Rpc(Generic[P, RequestT, ResponseT]):
    """A unary method. Reached through a client, or its class, it is a plain method of that client."""

    def __init__(
        self, unary: Unary[RequestT, ResponseT], build: Callable[Concatenate[Any, P], RequestT]
    ) -> None:
        # For help() and the like: each XRequest is answered by an XResponse, and that is what callers get.
        build.__annotations__["return"] = build.__annotations__["return"].replace("Request", "Response")

        @functools.wraps(build)
        def call(caller: SyncCaller, *args: P.args, **kwargs: P.kwargs) -> ResponseT:
            return caller._call(unary, build(caller, *args, **kwargs), caller._seconds(kwargs))

        @functools.wraps(build)
        async def call_async(caller: AsyncCaller, *args: P.args, **kwargs: P.kwargs) -> ResponseT:
            return await caller._call(unary, build(caller, *args, **kwargs), caller._seconds(kwargs))

        self._function, self._async_function = call, call_async

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
    return lambda build: Rpc(Unary(stub, mutates, batchable), build)
