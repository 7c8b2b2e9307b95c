# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What both clients are without their methods: something that makes unary calls, alone or in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from creditledger._unary import Stubs

if TYPE_CHECKING:
    import grpc
    import grpc.aio

    from creditledger._batching import AsyncBatcher, SyncBatcher
    from creditledger._unary import RequestT, ResponseT, Unary


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

    def _call(self, unary: Unary[RequestT, ResponseT], request: RequestT, seconds: float) -> ResponseT:
        if self._batcher is not None and unary.batchable:
            return cast("ResponseT", self._batcher.call(cast("Any", unary), cast("Any", request), seconds))
        return unary.send(self._stubs, request, seconds)


class AsyncCaller(Caller):
    """Makes unary calls and awaits their answers."""

    _batcher: AsyncBatcher | None

    async def _call(self, unary: Unary[RequestT, ResponseT], request: RequestT, seconds: float) -> ResponseT:
        if self._batcher is not None and unary.batchable:
            response = await self._batcher.call(cast("Any", unary), cast("Any", request), seconds)
            return cast("ResponseT", response)
        return await unary.send_async(self._stubs, request, seconds)
