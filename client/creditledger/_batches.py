# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Which `deduct` calls travel together, and what each of them gets. Does no I/O: `_batching` sends."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from creditledger._status import error_from_rpc
from creditledger._unary import closed_error
from creditledger.errors import (
    Cancelled,
    DeadlineExceeded,
    ServerOverloaded,
    Unauthenticated,
    Unavailable,
    raise_for_status,
)
from creditledger.v1.credit_ledger_pb2 import (
    BatchDeductRequest,
    BatchDeductResponse,
    BatchDeductResult,
    DeductRequest,
    DeductResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from creditledger._unary import Stubs

    # What a call gets: its result, the error of its attempt, or None where its batch did not tell and it is to be
    # sent alone.
    Answer = BatchDeductResult | DeductResponse | Exception | None

MAX_IN_FLIGHT = 2
"""So many batches are under way before calls wait for one of them to end."""
SHARE_ITEMS = 64
"""Smaller batches are not made to have more of them: what a batch costs by itself would outweigh it."""

# A server takes at most 1,000 items, and 4 MiB of them together with what their answers add.
MAX_ITEMS = 500
MAX_BYTES = 3 << 20
ITEM_BYTES = 1 << 10
"""Counted with the size of each request, for what its answer adds to it."""
ALONE_BYTES = 64 << 10
"""A larger request is sent alone."""

BACKOFFS = (0.1, 0.2, 0.4, 0.8)
"""Seconds before each further attempt of an item that is UNAVAILABLE, give or take a fifth, as the channel retries
single calls."""

# What each of the calls would have got too. Anything else may be the fault of one item, or of their number.
_ERRORS_OF_ALL = (Unavailable, Cancelled, Unauthenticated, ServerOverloaded)
_UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]


class Waiting:
    """A call that waits for its answer. `deadline` is in seconds of the clock of its batcher."""

    __slots__ = ("deadline", "is_queued", "request", "size")

    def __init__(self, request: DeductRequest, deadline: float) -> None:
        self.request = request
        self.is_queued = True
        self.size = request.ByteSize() + ITEM_BYTES
        self.deadline = deadline

    def has_left(self, now: float) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.deadline <= now


WaitingT = TypeVar("WaitingT", bound=Waiting)


class Batch(Generic[WaitingT]):
    """Calls that travel together."""

    def __init__(self, calls: list[WaitingT]) -> None:
        self.calls = calls

    def request(self) -> BatchDeductRequest:
        """The calls as one request."""
        return BatchDeductRequest(requests=[call.request for call in self.calls])

    def seconds(self, now: float) -> float:
        """The timeout: the longest of the calls'. The callers of the others stop waiting by themselves."""
        return max([call.deadline for call in self.calls]) - now

    def answers(self, response: BatchDeductResponse) -> Sequence[Answer]:
        """What each call gets."""
        results = response.results
        return results if len(results) == len(self.calls) else [None] * len(self.calls)

    def failures(self, error: Exception | asyncio.CancelledError) -> Sequence[Answer]:
        """What each call gets when there is no response."""
        if isinstance(error, asyncio.CancelledError):
            return [closed(call) for call in self.calls]
        if isinstance(error, grpc.RpcError) and isinstance(error_from_rpc(error), _ERRORS_OF_ALL):
            return [error] * len(self.calls)
        return [None] * len(self.calls)


class Batcher(Generic[WaitingT]):
    """Forms batches of the calls that wait; both clients share it."""

    def __init__(self, stubs: Stubs) -> None:
        self._stubs = stubs
        self._queue: deque[WaitingT] = deque()
        # Those that calls still wait for to end.
        self._in_flight: set[Batch[WaitingT]] = set()

    def _next(self, now: float) -> Batch[WaitingT] | None:
        """The next batch if it may be sent now, which then counts as in flight."""
        if len(self._in_flight) >= MAX_IN_FLIGHT or not (calls := self._take(now)):
            return None
        batch = Batch(calls)
        self._in_flight.add(batch)
        return batch

    def _take(self, now: float) -> list[WaitingT]:
        calls: list[WaitingT] = []
        room = MAX_BYTES
        # Spread over the batches that may go, so that client and server work at the same time.
        share = -(-len(self._queue) // (MAX_IN_FLIGHT - len(self._in_flight)))
        most = min(max(share, SHARE_ITEMS), MAX_ITEMS)
        while self._queue and len(calls) < most and self._queue[0].size <= room:
            call = self._queue.popleft()
            call.is_queued = False
            if not call.has_left(now):
                calls.append(call)
                room -= call.size
        return calls


def backoffs(answer: Answer) -> Iterator[float]:
    """How many seconds to wait before each further attempt: none unless the answer asks for one."""
    if is_unavailable(answer):
        for seconds in BACKOFFS:
            yield seconds * random.uniform(0.8, 1.2)


def is_unavailable(answer: Answer) -> bool:
    """Whether an item is to be sent again. Whole calls that end so were retried by the channel."""
    return isinstance(answer, BatchDeductResult) and answer.status.code == _UNAVAILABLE


def closed(call: Waiting) -> Cancelled:
    """The error of a call whose client was closed."""
    return closed_error((call.request.request_id,))


def late(call: Waiting) -> DeadlineExceeded:
    """The error of a call whose timeout passed, as gRPC tells it."""
    return DeadlineExceeded(
        "Deadline Exceeded",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        request_ids=(call.request.request_id,),
        outcome_unknown=True,
    )


def response_of(
    answer: BatchDeductResult | DeductResponse | Exception, request: DeductRequest
) -> DeductResponse:
    """What the single call would return, or raises what it would raise."""
    if isinstance(answer, BatchDeductResult):
        response = DeductResponse()
        # A part of a message keeps the whole of it in memory.
        response.CopyFrom(raise_for_status(answer, request.request_id))
        return response
    if isinstance(answer, DeductResponse):
        return answer
    if isinstance(answer, grpc.RpcError):
        raise error_from_rpc(answer, (request.request_id,)) from answer
    raise answer
