"""Lanes on a real event loop: what waits together is served together, in order, and only while its caller waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.ledger.lane import FULL_ENOUGH, PATIENCE, Lane, LaneGroup, Ticket
from hypothesis import given, settings
from hypothesis import strategies as st

Group = LaneGroup[int, str]
LONG = 30.0


@dataclass
class Server:
    """A ``serve`` that notes its rounds and answers "request!" once its gate is open."""

    gate: asyncio.Event
    rounds: list[list[int]] = field(default_factory=list)

    async def __call__(self, tickets: Sequence[Ticket[int, str]]) -> None:
        self.rounds.append([ticket.request for ticket in tickets])
        await self.gate.wait()
        for ticket in tickets:
            ticket.answer(f"{ticket.request}!")


def closed_server() -> Server:
    return Server(asyncio.Event())


def open_server() -> Server:
    server = closed_server()
    server.gate.set()
    return server


@asynccontextmanager
async def running(*servers: Server, queue_limit: int = 1_000, round_limit: int = 100) -> AsyncIterator[Group]:
    """Lanes that are served as long as the block lasts; a request belongs to the lane of its remainder."""
    lanes = [Lane(server, queue_limit=queue_limit, round_limit=round_limit) for server in servers]
    group: Group = LaneGroup(lanes, lambda request: request % len(servers))
    async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
        served = tasks.create_task(group.run())
        yield group
        served.cancel()


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(2 * PATIENCE):
        await asyncio.sleep(0)


def deadline(seconds: float = LONG) -> float:
    return asyncio.get_running_loop().time() + seconds


def reasons(answers: Sequence[str | Refused]) -> list[str]:
    return [answer.reason if isinstance(answer, Refused) else answer for answer in answers]


# ── Order ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_answers_of_a_call_are_in_the_order_of_its_requests() -> None:
    async with running(open_server(), open_server(), open_server(), round_limit=2) as group:
        assert await group.submit([5, 3, 4, 0, 5, 8], deadline()) == ["5!", "3!", "4!", "0!", "5!", "8!"]


async def test_a_call_over_several_lanes_waits_for_the_last_of_its_answers() -> None:
    slow = closed_server()
    async with running(slow, open_server()) as group, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(group.submit([0, 1, 2], deadline()))
        await settle()
        assert not call.done()
        slow.gate.set()
        assert await call == ["0!", "1!", "2!"]


async def test_every_caller_gets_its_own_answers() -> None:
    async with running(open_server(), open_server(), round_limit=3) as group:
        answers = await asyncio.gather(
            *(group.submit([n, n + 1, n + 2], deadline()) for n in range(0, 90, 3))
        )
    assert [answer for call in answers for answer in call] == [f"{n}!" for n in range(90)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_requests_of_one_key_are_served_in_the_order_in_which_they_came(
    calls: list[list[int]], lanes: int, round_limit: int
) -> None:
    servers: list[Server] = []
    # Requests are numbered by thousands; what is left is the key.
    numbered = [
        [1_000 * (100 * place + number) + key for number, key in enumerate(call)]
        for place, call in enumerate(calls)
    ]

    async def run() -> None:
        servers.extend(open_server() for _ in range(lanes))
        queues: list[Lane[int, str]] = [
            Lane(server, queue_limit=1_000, round_limit=round_limit) for server in servers
        ]
        group: Group = LaneGroup(queues, lambda request: request % 1_000)
        async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
            served = tasks.create_task(group.run())
            await asyncio.gather(*(group.submit(call, deadline()) for call in numbered))
            served.cancel()

    asyncio.run(run())
    for key in range(8):
        came = [request for call in numbered for request in call if request % 1_000 == key]
        served = [r for server in servers for one in server.rounds for r in one if r % 1_000 == key]
        assert served == came
    assert all(len(one) <= round_limit for server in servers for one in server.rounds)


# ── Rounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_idle_lane_serves_a_request_at_once() -> None:
    server = closed_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([1], deadline()))
        await settle()
        assert server.rounds == [[1]]
        server.gate.set()


async def test_what_arrives_during_a_round_makes_up_the_next_one() -> None:
    server = closed_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        for request in range(5):
            tasks.create_task(group.submit([request], deadline()))
            await settle()
        server.gate.set()
    assert server.rounds == [[0], [1, 2, 3, 4]]


async def test_a_round_takes_no_more_than_its_limit() -> None:
    server = open_server()
    async with running(server, round_limit=3) as group:
        await group.submit(list(range(8)), deadline())
    assert server.rounds == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_callers_that_come_one_by_one_share_a_round() -> None:
    """As grpc.aio lets them come: about one for every few turns of the event loop."""
    server = open_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        await group.submit([0, 1], deadline())  # the lane is busy
        for number in range(2, 20):
            tasks.create_task(group.submit([number], deadline()))
            for _ in range(PATIENCE // 2):
                await asyncio.sleep(0)
    assert server.rounds == [[0, 1], list(range(2, 20))]


async def test_a_busy_lane_does_not_wait_for_many_turns_that_take_long() -> None:
    server, turns = open_server(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            time.sleep(0.005)  # noqa: ASYNC251 - the loop is busy
            await asyncio.sleep(0)

    async with running(server) as group:
        await group.submit([0, 1], deadline())  # the lane is busy
        busy = asyncio.get_running_loop().create_task(others())
        await group.submit([2, 3], deadline())
        busy.cancel()
    assert turns < PATIENCE / 2


async def test_a_lone_caller_waits_for_nobody() -> None:
    server = open_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        for number in range(3):
            call = tasks.create_task(group.submit([number], deadline()))
            for _ in range(5):
                await asyncio.sleep(0)
            assert call.done()


async def test_a_round_that_is_full_enough_is_not_held_back() -> None:
    server = open_server()
    async with running(server, round_limit=10 * FULL_ENOUGH) as group, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(group.submit(list(range(FULL_ENOUGH)), deadline()))
        for _ in range(5):
            await asyncio.sleep(0)
        assert call.done()


async def test_one_round_at_a_time_per_lane() -> None:
    server = closed_server()
    async with running(server, round_limit=1) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([1, 2], deadline()))
        await settle()
        assert server.rounds == [[1]]
        server.gate.set()


async def test_a_slow_lane_does_not_hold_up_another() -> None:
    slow = closed_server()
    async with running(slow, open_server()) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([0], deadline()))
        await settle()
        assert await group.submit([1], deadline()) == ["1!"]
        slow.gate.set()


async def test_an_idle_lane_waits_and_does_not_spin() -> None:
    server = open_server()
    async with running(server) as group:
        await group.submit([1], deadline())
        await settle()
        assert server.rounds == [[1]]
        assert await group.submit([2], deadline()) == ["2!"]


async def test_a_call_without_requests_is_answered_at_once() -> None:
    async with running(open_server()) as group:
        async with asyncio.timeout(0.2):
            assert await group.submit([], deadline()) == []


# ── Overload ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def overloaded(group: Group, requests: list[int]) -> Refused:
    with pytest.raises(Refused) as caught:
        async with asyncio.timeout(1):
            await group.submit(requests, deadline())
    assert caught.value.reason is Reason.SERVER_OVERLOADED
    return caught.value


async def test_a_full_lane_refuses_at_once_and_queues_nothing() -> None:
    server = closed_server()
    async with running(server, queue_limit=3) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([0], deadline()))
        await settle()
        waiting = tasks.create_task(group.submit([1, 2, 3], deadline()))
        await settle()
        assert (await overloaded(group, [4])).retry_after
        server.gate.set()
        assert await waiting == ["1!", "2!", "3!"]
        assert await group.submit([5], deadline()) == ["5!"]
    assert server.rounds == [[0], [1, 2, 3], [5]]


async def test_a_call_that_does_not_fit_whole_is_refused_whole() -> None:
    server = open_server()
    async with running(server, queue_limit=3) as group:
        await overloaded(group, [1, 2, 3, 4])
        await settle()
        assert await group.submit([5, 6, 7], deadline()) == ["5!", "6!", "7!"]
    assert server.rounds == [[5, 6, 7]]


async def test_a_call_that_one_of_its_lanes_refuses_is_queued_in_none() -> None:
    full, idle = closed_server(), open_server()
    async with running(full, idle, queue_limit=2) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([0], deadline()))
        await settle()
        tasks.create_task(group.submit([2, 4], deadline()))
        await settle()
        await overloaded(group, [1, 6])
        await settle()
        assert idle.rounds == []
        assert await group.submit([1], deadline()) == ["1!"]
        full.gate.set()


async def test_a_call_needs_room_in_each_lane_only_for_its_requests_there() -> None:
    async with running(open_server(), open_server(), queue_limit=2) as group:
        assert await group.submit([0, 1, 2, 3], deadline()) == ["0!", "1!", "2!", "3!"]


# ── Callers that leave ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_whose_caller_has_left_is_not_served() -> None:
    server = closed_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(group.submit([0], deadline()))
        await settle()
        left = tasks.create_task(group.submit([1, 2], deadline()))
        stayed = tasks.create_task(group.submit([3], deadline()))
        await settle()
        left.cancel()
        server.gate.set()
        assert (await first, await stayed) == (["0!"], ["3!"])
    assert server.rounds == [[0], [3]]
    assert left.cancelled()


async def test_a_caller_that_leaves_during_its_round_disturbs_nobody() -> None:
    server = closed_server()
    async with running(server, round_limit=3) as group, asyncio.TaskGroup() as tasks:
        gate = tasks.create_task(group.submit([0], deadline()))
        await settle()
        leaving = tasks.create_task(group.submit([1, 2], deadline()))
        staying = tasks.create_task(group.submit([3], deadline()))
        server.gate.set()
        await gate
        server.gate.clear()
        await settle()
        leaving.cancel()
        await settle()
        server.gate.set()
        assert await staying == ["3!"]
        assert await group.submit([4], deadline()) == ["4!"]
    assert server.rounds == [[0], [1, 2, 3], [4]]


async def test_the_rest_of_a_call_is_not_served_once_its_caller_has_left() -> None:
    server = closed_server()
    async with running(server, round_limit=1) as group, asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(group.submit([1, 2, 3], deadline()))
        await settle()
        leaving.cancel()
        await settle()
        server.gate.set()
        assert await group.submit([4], deadline()) == ["4!"]
    assert server.rounds == [[1], [4]]


async def test_a_request_whose_deadline_has_passed_is_answered_and_not_served() -> None:
    server = closed_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([0], deadline()))
        await settle()
        late = tasks.create_task(group.submit([1, 2], deadline(0.001)))
        await asyncio.sleep(0.01)
        server.gate.set()
        assert reasons(await late) == ["DEADLINE_PASSED"] * 2
    assert server.rounds == [[0]]


async def test_a_deadline_that_passes_during_the_round_changes_nothing() -> None:
    server = closed_server()
    async with running(server) as group, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(group.submit([0], deadline(0.3)))
        await settle()
        await asyncio.sleep(0.31)
        server.gate.set()
        assert await call == ["0!"]


async def test_a_deadline_in_the_past_is_refused_and_never_served() -> None:
    server = open_server()
    async with running(server) as group:
        assert reasons(await group.submit([0], deadline(-1))) == ["DEADLINE_PASSED"]
        assert await group.submit([1], deadline()) == ["1!"]
    assert server.rounds == [[1]]


async def test_the_abandoned_take_no_places_of_a_round() -> None:
    server = closed_server()
    async with running(server, round_limit=2) as group, asyncio.TaskGroup() as tasks:
        tasks.create_task(group.submit([0], deadline()))
        await settle()
        late = tasks.create_task(group.submit([1, 2, 3], deadline(0.001)))
        await settle()
        tasks.create_task(group.submit([4, 5], deadline()))
        await asyncio.sleep(0.01)
        server.gate.set()
        assert reasons(await late) == ["DEADLINE_PASSED"] * 3
    assert server.rounds == [[0], [4, 5]]


# ── Refusals and failures ─────────────────────────────────────────────────────────────────────────────────────────


class Moody(Server):
    """Refuses multiples of 3 and raises when it comes to 7; answers the rest."""

    async def __call__(self, tickets: Sequence[Ticket[int, str]]) -> None:
        self.rounds.append([ticket.request for ticket in tickets])
        for ticket in tickets:
            if ticket.request == 7:
                raise RuntimeError("secret of the server")
            refused = Refused(Reason.INSUFFICIENT_CREDITS, "no")
            ticket.answer(f"{ticket.request}!" if ticket.request % 3 else refused)


def moody() -> Moody:
    return Moody(asyncio.Event())


async def test_a_refusal_is_an_answer_among_others() -> None:
    async with running(moody()) as group:
        answers = await group.submit([2, 3, 4], deadline())
    assert reasons(answers) == ["2!", "INSUFFICIENT_CREDITS", "4!"]


async def test_a_serve_that_raises_answers_internal_and_the_lane_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = moody()
    async with running(server) as group:
        assert reasons(await group.submit([7], deadline())) == ["INTERNAL"]
        assert await group.submit([1], deadline()) == ["1!"]
    assert server.rounds == [[7], [1]]
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [
        (logging.ERROR, True)
    ]


async def test_what_was_answered_before_serve_raised_stays_answered() -> None:
    async with running(moody()) as group:
        answers = await group.submit([1, 3, 7, 8], deadline())
    assert reasons(answers) == ["1!", "INSUFFICIENT_CREDITS", "INTERNAL", "INTERNAL"]
    assert "secret" not in str([answer for answer in answers if isinstance(answer, Refused)])


async def test_a_failing_round_concerns_its_own_requests_only() -> None:
    async with running(moody(), round_limit=2) as group:
        answers = await group.submit([1, 7, 2, 4], deadline())
    assert reasons(answers) == ["1!", "INTERNAL", "2!", "4!"]


async def test_a_serve_in_which_something_was_cancelled_answers_internal_and_the_lane_goes_on() -> None:
    class Cancelled(Server):
        async def __call__(self, tickets: Sequence[Ticket[int, str]]) -> None:
            if self.rounds:
                return await super().__call__(tickets)
            self.rounds.append([])
            raise asyncio.CancelledError  # as where a driver awaits a future that it has cancelled itself

    server = Cancelled(asyncio.Event())
    server.gate.set()
    async with asyncio.timeout(0.3), running(server, open_server()) as group:
        assert reasons(await group.submit([0], deadline())) == ["INTERNAL"]
        assert await group.submit([2], deadline()) == ["2!"]


async def test_a_lane_ends_when_it_is_cancelled_idle_or_busy() -> None:
    for requests in ([], [1]):
        server = closed_server()
        async with asyncio.TaskGroup() as tasks:
            group: Group = LaneGroup([Lane(server, queue_limit=9, round_limit=9)], lambda _: 0)
            served = tasks.create_task(group.run())
            calls = [tasks.create_task(group.submit([request], deadline())) for request in requests]
            await settle()
            served.cancel()
            await settle()
            assert served.cancelled()
            for call in calls:
                call.cancel()
