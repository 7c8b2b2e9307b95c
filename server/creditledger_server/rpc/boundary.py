"""The one place where errors become statuses: an interceptor around every method of every service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import AbortError, InternalError, ServerInterceptor, ServicerContext

from ..domain.refusal import Reason, Refused
from ..ledger.failures import refusal_of
from .counts import LEFT, CallCounts
from .status import CODES, rich_status

STALL_SECONDS = 30.0
"""How long a stream's reader may take to read one message."""

COUNTED = "/creditledger."
"""With what the methods begin that are counted: not health and reflection, which are asked by machines."""

Handler = Any
Context = ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Any]


class Malformed:
    """Stands for a request whose bytes are no such message.

    Left to itself grpc answers INTERNAL to those, as if the server had failed.
    """


class Boundary(ServerInterceptor):
    """Turns what the services raise into statuses with details, and bugs into INTERNAL with an incident id.

    Nothing of an unforeseen exception reaches the caller but that id. ``counts`` tells how calls ended.
    """

    def __init__(self) -> None:
        self.counts = CallCounts()
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the method's handler, once."""
        method = details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(details)
            if handler is None:  # an unknown method; not kept, so that made-up names fill no memory
                return None
            wrapped = self._wrapped[method] = _wrap(
                handler, method, self.counts if method.startswith(COUNTED) else CallCounts()
            )
        return wrapped


def _wrap(handler: Handler, method: str, counts: CallCounts) -> Handler:
    deserialize = handler.request_deserializer

    def deserialize_safely(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Malformed()

    handler = handler._replace(request_deserializer=deserialize_safely)
    if handler.unary_unary:
        return handler._replace(unary_unary=_guard_unary(handler.unary_unary, method, counts))
    if handler.unary_stream:
        return handler._replace(unary_stream=_guard_stream(handler.unary_stream, method, counts))
    assert handler.stream_stream, method  # reflection
    return handler._replace(stream_stream=_guard_stream(handler.stream_stream, method, counts))


def _guard_unary(behavior: Behavior, method: str, counts: CallCounts) -> Behavior:
    async def call(request: Any, context: Context) -> Any:
        start, code = time.perf_counter(), LEFT
        try:
            _check_decoded(request)
            answer = behavior(request, context)
            if asyncio.iscoroutine(answer):
                answer = await answer
            code = "OK"
            return answer
        except (asyncio.CancelledError, AbortError):
            raise
        except Exception as error:
            refusal = _refusal_of(error, method)
            code = CODES[refusal.reason].name
        finally:
            counts.answered(method, code, time.perf_counter() - start)
        counts.refused[method, refusal.reason] += 1
        await _abort(context, refusal)

    return call


def _guard_stream(behavior: Behavior, method: str, counts: CallCounts) -> Behavior:
    async def call(request: Any, context: Context) -> None:
        end = LEFT
        counts.open[method] += 1
        try:
            if hasattr(request, "__aiter__"):
                request = _decoded(request)
            else:
                _check_decoded(request)
            await _send_all(behavior(request, context), context)
            end = "OK"
            return
        except _CallerGone:
            return
        except (asyncio.CancelledError, AbortError):
            raise
        except Exception as error:
            refusal = _refusal_of(error, method)
            end = refusal.reason
        finally:
            counts.open[method] -= 1
            counts.ended[method, end] += 1
        counts.refused[method, refusal.reason] += 1
        with contextlib.suppress(InternalError):  # the caller leaves before it has read so far
            await _abort(context, refusal)

    return call


class _CallerGone(Exception):
    """The caller has left in the middle of a stream."""


class _Stall:
    """Cancels a stream's task when a write has taken longer than ``STALL_SECONDS``.

    Looks now and then: to set a timer for every message would cost a tenth of sending it.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None  # when the write under way began
        self._timer = self._loop.call_later(STALL_SECONDS / 2, self._look)
        self.happened = False

    def __enter__(self) -> None:
        self._since = self._loop.time()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        if waited >= STALL_SECONDS:
            self.happened = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(min(STALL_SECONDS / 2, STALL_SECONDS - waited), self._look)


async def _send_all(answer: Any, context: Context) -> None:
    if not hasattr(answer, "__aiter__"):
        await answer
        return
    task = asyncio.current_task()
    assert task is not None
    stall = _Stall(task)
    begun = False
    try:
        async with contextlib.aclosing(answer):
            async for message in answer:
                if not begun:
                    # By themselves, for they never wait: while they do, with the first message, no end can be sent.
                    await context.send_initial_metadata(())
                    begun = True
                with stall:
                    await context.write(message)
    except InternalError as error:
        raise _CallerGone from error
    except asyncio.CancelledError:
        if not stall.happened or task.uncancel():
            raise
        words = "the reader has not read for too long; resume with the last cursor"
        raise Refused(Reason.WATCHER_TOO_SLOW, words, retry_after=100_000) from None
    finally:
        stall.close()


async def _decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _check_decoded(request)
        yield request


def _check_decoded(request: Any) -> None:
    if isinstance(request, Malformed):
        rule = "the bytes are not a valid message of the method's request type"
        raise Refused(Reason.FIELD_INVALID, rule, violations=(("", rule),))


def _refusal_of(error: Exception, method: str) -> Refused:
    if isinstance(error, NotImplementedError):
        error = Refused(Reason.NOT_IMPLEMENTED, "this version of the server does not serve this yet")
    refusal = refusal_of(error, method)
    if refusal.reason is Reason.NOT_IMPLEMENTED:
        refusal.metadata["method"] = method
    return refusal


async def _abort(context: Context, refusal: Refused) -> NoReturn:
    status = rich_status(refusal)
    await context.abort(
        CODES[refusal.reason],
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("unreachable")
