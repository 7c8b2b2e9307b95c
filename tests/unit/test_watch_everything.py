"""Streams of all accounts: whatever the commits and wherever a stream breaks, its cursor resumes with what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.storage.commits import Committed, Positions, Reach
from creditledger_server.watch import everything, pages
from creditledger_server.watch.beat import Beat
from creditledger_server.watch.cursor import AllPosition, AllSeen, Cursors
from creditledger_server.watch.everything import AllStream
from creditledger_server.watch.feed import Feed
from creditledger_server.watch.hub import Subscription
from creditledger_server.watch.message import Message, Signal, Summary
from creditledger_server.watch.pages import Pages
from hypothesis import given, settings
from hypothesis import strategies as st
from watch_entries import entry, no_connection

CURSORS = Cursors(bytes(32))
LONG = 10.0
HOUR = 3_600.0
SHORT = 1e-6
DEDUCTED, GRANTED = EntryKind.DEDUCTED, EntryKind.GRANTED

Place = tuple[str, int]


class Log:
    """A commit log: ``commit`` writes to it below the horizon, unless that is ``held`` by somebody's transaction."""

    def __init__(self) -> None:
        self.committed: list[Committed] = []
        self.revisions: dict[str, int] = {}
        self.next = 1
        self.held: int | None = None
        self.reads = 0

    @property
    def horizon(self) -> int:
        return self.next if self.held is None else self.held

    def hold(self) -> None:
        """Somebody begins to write what has nothing to do with the ledger."""
        self.held, self.next = self.next, self.next + 1

    def commit(self, *parts: tuple[str, EntryKind], tied: bool = False) -> None:
        """One transaction; ``tied``: at the position of the one before."""
        self.next += not tied or self.next == 1
        for account_id, kind in parts:
            revision = self.revisions[account_id] = self.revisions.get(account_id, 0) + 1
            self.committed.append(Committed(self.next - 1, entry(account_id, revision, kind)))
        self.committed.sort(key=lambda item: (item.position, item.entry.account_id, item.entry.revision))

    async def read_positions(self, _conn: Any) -> Positions:
        return Positions(self.horizon, self.next)

    async def read_committed(self, _conn: Any, position: int, limit: int) -> Reach:
        self.reads += 1
        below = [item for item in self.committed if position <= item.position < self.horizon]
        further = sorted({item.position for item in below if item.position > position})[:limit]
        found = [item for item in below if item.position <= max([position, *further])]
        return Reach(self.horizon, not further, 0, found)


class Stream:
    """A stream, on a server of its own unless it shares the pages of another."""

    def __init__(
        self, cursor: str, interval: float = 0, kinds: Sequence[EntryKind] = (), shared: Pages | None = None
    ) -> None:
        self.subscription = Subscription(None)
        self.pages = shared or Pages(no_connection)
        feed = cast(Feed, SimpleNamespace(connect=no_connection, pages=self.pages))
        stream = AllStream(feed, CURSORS, frozenset(kinds), interval, Beat(HOUR))
        self.messages = stream.messages(self.subscription, cursor)

    def wake(self) -> None:
        self.pages.news()
        self.subscription.notify("")

    async def next(self) -> Message:
        async with asyncio.timeout(LONG):
            return await anext(self.messages)

    async def until_caught_up(self) -> list[Message]:
        """The messages before it."""
        found = []
        while (message := await self.next()).body is not Signal.CAUGHT_UP:
            found.append(message)
        return found


@contextmanager
def reading(log: Log, *, summed: int = 1_000, commits: int = 16) -> Iterator[None]:
    """Lets streams read the log, without a rest between two looks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(everything, "REST", 0)
        patched.setattr(everything, "SETTLE", 0.001)
        patched.setattr(everything, "SUMMED", summed)
        patched.setattr(everything, "read_positions", log.read_positions)
        patched.setattr(pages, "COMMITS", commits)
        patched.setattr(pages, "read_committed", log.read_committed)
        yield


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    with reading(log):
        yield log


def start() -> str:
    return CURSORS.of_all(AllSeen(AllPosition(0)))


def places(message: Message) -> list[Place]:
    """Which entries a message tells."""
    body = message.body
    if isinstance(body, Entry):
        return [(body.account_id, body.revision)]
    if isinstance(body, Summary):
        return [
            (body.last.account_id, number) for number in range(body.from_revision, body.last.revision + 1)
        ]
    return []


def told(messages: Iterable[Message], among: set[Place]) -> list[Place]:
    """What messages tell of certain entries, in the order of revisions as they come."""
    return [place for message in messages for place in places(message) if place in among]


# ── Cursors ───────────────────────────────────────────────────────────────────────────────────────────────────────

names = st.sampled_from("abcd")
kinds = st.sampled_from([DEDUCTED, GRANTED])
commits = st.tuples(st.lists(st.tuples(names, kinds), min_size=1, max_size=5), st.booleans())


Commits = list[tuple[list[tuple[str, EntryKind]], bool]]


def partly_seen(log: Log, reached: int, end: int, account_id: str) -> AllSeen:
    """That of somebody who was in the middle of summaries of the log from one entry to another."""
    order = [AllPosition(item.position, item.entry.account_id, item.entry.revision) for item in log.committed]
    reached, end = sorted(number % len(order) for number in (reached, end))
    return AllSeen(order[reached], order[end], account_id) if reached < end else AllSeen(AllPosition(0))


@settings(deadline=None)
@given(
    history=st.lists(commits, min_size=1, max_size=12),
    later=st.lists(commits, max_size=4),
    begun=st.tuples(st.integers(0, 15), st.integers(0, 15), names),
    breaks=st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, SHORT])), max_size=5),
    watched=st.sampled_from([(), (DEDUCTED,)]),
    summed=st.integers(1, 6),
    page=st.integers(1, 3),
)
def test_wherever_a_stream_breaks_its_cursor_resumes_with_exactly_what_is_left(
    history: Commits,
    later: Commits,
    begun: tuple[int, int, str],
    breaks: list[tuple[int, float]],
    watched: tuple[EntryKind, ...],
    summed: int,
    page: int,
) -> None:
    log = Log()

    async def run() -> None:
        for parts, tied in history:
            log.commit(*parts, tied=tied)
        seen = partly_seen(log, *begun)
        cursor, messages = CURSORS.of_all(seen), list[Message]()
        for size, interval in breaks:
            part = (await Stream(cursor, interval, watched).until_caught_up())[:size]
            messages += part
            cursor = part[-1].cursor if part else cursor
        for number, (parts, tied) in enumerate(later):
            log.commit(*parts, tied=tied and number > 0)
        messages += await Stream(cursor, SHORT if summed % 2 else 0, watched).until_caught_up()
        every = {
            (item.entry.account_id, item.entry.revision)
            for item in log.committed
            if not watched or item.entry.kind in watched
            if not seen.has(AllPosition(item.position, item.entry.account_id, item.entry.revision))
        }
        assert sorted(told(messages, every), key=lambda each: each[0]) == sorted(every)

    with reading(log, summed=summed, commits=page):
        asyncio.run(run())


async def test_summaries_that_go_on_where_others_broke_do_not_forget_what_those_had_told(log: Log) -> None:
    for account_id in "xbbca":
        log.commit((account_id, DEDUCTED))
    between = AllSeen(AllPosition(1, "x", 1), AllPosition(4, "c", 1), "b")
    first = await Stream(CURSORS.of_all(between), HOUR).next()
    rest = await Stream(first.cursor).until_caught_up()

    left = {("c", 1), ("a", 1)}
    assert sorted([*places(first), *told(rest, {*left, ("b", 1), ("b", 2)})]) == sorted(left)


async def test_a_cursor_between_summaries_that_ends_ahead_of_the_ledger_is_refused(log: Log) -> None:
    """A ledger restored from a backup: the first cursors of the run lie behind it, and its end lies ahead."""
    log.commit(("ann", DEDUCTED))
    cursor = CURSORS.of_all(AllSeen(AllPosition(1), AllPosition(1_000), "bob"))

    with pytest.raises(Refused) as caught:
        await Stream(cursor).next()
    assert caught.value.reason is Reason.CURSOR_AHEAD


# ── Caught up ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("interval", [0, HOUR])
async def test_that_it_has_caught_up_is_told_once_what_was_under_way_has_been_told_however_long_the_interval(
    log: Log, interval: float
) -> None:
    log.commit(("ann", DEDUCTED))
    log.hold()
    log.commit(("ann", DEDUCTED), ("bob", DEDUCTED))
    stream = Stream(start(), interval)

    asyncio.get_running_loop().call_later(0.05, lambda: setattr(log, "held", None))
    messages = await stream.until_caught_up()

    assert sorted(told(messages, {("ann", 1), ("ann", 2), ("bob", 1)})) == [
        ("ann", 1), ("ann", 2), ("bob", 1),
    ]  # fmt: skip


async def test_summaries_wait_for_the_interval_and_their_cursors_for_the_summaries(log: Log) -> None:
    stream = Stream(start(), HOUR)
    assert await stream.until_caught_up() == []
    log.commit(("ann", DEDUCTED))
    stream.wake()
    first = await stream.next()
    assert places(first) == [("ann", 1)]

    log.commit(("ann", DEDUCTED))
    stream.wake()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream.messages)
    resumed = await Stream(first.cursor).until_caught_up()
    assert told(resumed, {("ann", 1), ("ann", 2)}) == [("ann", 2)]


# ── Many streams ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_streams_that_catch_up_from_different_places_do_not_read_the_log_once_per_message(
    log: Log,
) -> None:
    """As after a server went away: all its streams resume elsewhere, each where it was."""
    for _ in range(100):
        log.commit(*[("ann", DEDUCTED)] * 20)
    shared = Pages(no_connection)
    streams = [
        Stream(CURSORS.of_all(AllSeen(AllPosition(position))), shared=shared)
        for position in range(1, 4 * pages.KEPT + 1)
    ]

    messages = 0
    for _ in range(100):
        for stream in streams:
            await stream.next()
            messages += 1
    assert log.reads <= messages // 10
