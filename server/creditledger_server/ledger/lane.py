"""Lanes: requests wait in a queue, and a worker takes all that wait as one round.

No timers: an idle lane starts a round at once, a busy one gathers the next while the present one runs. Callers wait on
a future; that they leave cancels the future, never the round.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..domain.refusal import Reason, Refused
from .failures import incident

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

FULL_ENOUGH = 64
"""A round of so many requests is not held back for more: its fixed cost is spread."""

PATIENCE = 32
"""For how many turns of the event loop a busy lane waits for one more request; a turn takes about 5 µs."""


LONGEST_WAIT = 0.002
"""And for how many seconds at most: where many messages to watchers are to be sent, a turn takes milliseconds."""


class Call(Generic[AnswerT]):
    """The requests of one caller. ``answers`` is complete when the future is done; a refusal is an answer too.

    ``deadline`` is in seconds of the event loop's clock.
    """

    __slots__ = ("answers", "deadline", "future", "missing")

    def __init__(self, size: int, deadline: float, future: asyncio.Future[list[AnswerT | Refused]]) -> None:
        self.answers: list[AnswerT | Refused | None] = [None] * size
        self.missing = size
        self.deadline = deadline
        self.future = future

    def answer(self, place: int, answer: AnswerT | Refused) -> None:
        """Sets one answer, and wakes the caller with the last one."""
        self.answers[place] = answer
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.answers)  # type: ignore[arg-type]

    def abandoned(self, now: float) -> bool:
        """Whether the caller has left or its deadline has passed: its requests must not be carried out any more."""
        return self.future.done() or now > self.deadline


@dataclass(eq=False, slots=True)
class Ticket(Generic[RequestT, AnswerT]):
    """One request in a lane's queue: the ``place``-th of its call."""

    request: RequestT
    call: Call[AnswerT]
    place: int

    def answer(self, answer: AnswerT | Refused) -> None:
        """Answers the request."""
        self.call.answer(self.place, answer)


def deadline_passed() -> Refused:
    """The answer to a request that was dropped untried."""
    return Refused(Reason.DEADLINE_PASSED, "the deadline passed while the request waited; it was not tried")


class Lane(Generic[RequestT, AnswerT]):
    """A bounded queue and the worker that serves it, until it is cancelled.

    ``serve`` answers every ticket of a round and does not raise; should it do so all the same, the round's callers are
    told and the lane goes on.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[Ticket[RequestT, AnswerT]]], Awaitable[None]],
        *,
        queue_limit: int,
        round_limit: int,
    ) -> None:
        self._serve = serve
        self._queue: deque[Ticket[RequestT, AnswerT]] = deque()
        self._queue_limit = queue_limit
        self._round_limit = round_limit
        self._arrived = asyncio.Event()
        self._last_size = 0

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more requests may wait."""
        return len(self._queue) + size <= self._queue_limit

    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def put(self, ticket: Ticket[RequestT, AnswerT]) -> None:
        """Queues a request."""
        self._queue.append(ticket)
        self._arrived.set()

    async def run(self) -> None:
        """Serves rounds for ever."""
        while True:
            await self._arrived.wait()
            await self._gather()
            if tickets := self._take():
                await self._serve_round(tickets)

    async def _gather(self) -> None:
        """Lets callers who are on their way join the round, while there is more than one.

        grpc.aio accepts about one call per turn of the event loop: of 64 callers, a round that began with the first to
        arrive would carry one or two, and the next as well. A lone caller waits for nobody.
        """
        if max(self._last_size, len(self._queue)) <= 1:
            return
        size, turns, since = len(self._queue), 0, time.monotonic()
        while (
            len(self._queue) < min(FULL_ENOUGH, self._round_limit)
            and turns < PATIENCE
            and time.monotonic() - since < LONGEST_WAIT
        ):
            await asyncio.sleep(0)
            turns += 1
            if len(self._queue) > size:
                size, turns, since = len(self._queue), 0, time.monotonic()

    def _take(self) -> list[Ticket[RequestT, AnswerT]]:
        now = asyncio.get_running_loop().time()
        tickets: list[Ticket[RequestT, AnswerT]] = []
        while self._queue and len(tickets) < self._round_limit:
            ticket = self._queue.popleft()
            if ticket.call.abandoned(now):
                ticket.answer(deadline_passed())
            else:
                tickets.append(ticket)
        if not self._queue:
            self._arrived.clear()
        self._last_size = len(tickets)
        return tickets

    async def _serve_round(self, tickets: list[Ticket[RequestT, AnswerT]]) -> None:
        try:
            await self._serve(tickets)
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the lane itself is to end
            refusal = incident("a round failed", error)
            for ticket in tickets:
                if ticket.call.answers[ticket.place] is None:
                    ticket.answer(refusal)


class LaneGroup(Generic[RequestT, AnswerT]):
    """Several lanes; a request goes to the lane of its key, so that the requests of one key stay in order."""

    def __init__(self, lanes: Sequence[Lane[RequestT, AnswerT]], lane_of: Callable[[RequestT], int]) -> None:
        self._lanes = lanes
        self._lane_of = lane_of

    def waiting(self) -> int:
        """How many requests wait in all lanes."""
        return sum(lane.waiting() for lane in self._lanes)

    async def submit(self, requests: Sequence[RequestT], deadline: float) -> list[AnswerT | Refused]:
        """Queues the requests and waits for all answers. Raises SERVER_OVERLOADED at once where a lane is full."""
        if not requests:
            return []
        lanes = [self._lanes[self._lane_of(request) % len(self._lanes)] for request in requests]
        if not all(lane.has_room(size) for lane, size in Counter(lanes).items()):
            raise Refused(Reason.SERVER_OVERLOADED, "too many requests are waiting", retry_after=500_000)
        call: Call[AnswerT] = Call(len(requests), deadline, asyncio.get_running_loop().create_future())
        for place, (lane, request) in enumerate(zip(lanes, requests, strict=True)):
            lane.put(Ticket(request, call, place))
        return await call.future

    async def run(self) -> None:
        """Runs all lanes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run())
