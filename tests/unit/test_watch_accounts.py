"""Streams of named accounts over memory and tables: every revision once, in order, however slowly they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.ledger.ledger import Ledger
from creditledger_server.watch import accounts
from creditledger_server.watch.accounts import AccountStream
from creditledger_server.watch.beat import Beat
from creditledger_server.watch.cursor import SNAPSHOT_OWED, Cursors
from creditledger_server.watch.feed import Feed
from creditledger_server.watch.hub import Hub, Subscription
from creditledger_server.watch.message import Message, Signal, Summary
from creditledger_server.watch.pages import Pages
from creditledger_server.watch.recent import Recent
from hypothesis import given, settings
from hypothesis import strategies as st
from watch_entries import entries, entry, no_connection

HELD = 10
"""How many entries there is room for in memory."""

HOUR = 3_600.0
LONG = 10.0
CURSORS = Cursors(bytes(32))


class Site:
    """The tables, and the hub of one server."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Entry]] = {}
        self.hub = Hub(Pages(no_connection), lambda: None)
        self.hub.recent = Recent(HELD)
        self.reads = 0

    def commit_elsewhere(self, account_id: str, count: int = 1) -> list[Entry]:
        history = self.tables.setdefault(account_id, [])
        new = entries(account_id, len(history) + 1, len(history) + count)
        history += new
        return new

    def commit(self, account_id: str, count: int = 1) -> None:
        new = self.commit_elsewhere(account_id, count)
        self.hub.committed([Account(account_id, written=new)])

    def tail(self) -> None:
        """What the tailer does for all that is watched."""
        for account_id in self.hub.watched():
            head, history = self.hub.recent.head(account_id), self.tables[account_id]
            if head is None or head < len(history):
                self.hub.read(account_id, history[max(head or 0, len(history) - 5) :])

    async def read_revisions(self, _conn: Any, account_ids: Sequence[str]) -> dict[str, int]:
        return {name: len(self.tables[name]) for name in account_ids if name in self.tables}

    async def read_after(self, _conn: Any, account_id: str, revision: int, limit: int) -> list[Entry]:
        self.reads += 1
        found = self.tables[account_id][revision : revision + limit]
        await asyncio.sleep(0)  # what is committed meanwhile is not in it
        return found

    async def standing(self, account_id: str) -> Any:
        return SimpleNamespace(account=SimpleNamespace(revision=len(self.tables[account_id])))


class Stream:
    """A stream of one server, read by hand."""

    def __init__(
        self,
        site: Site,
        *names: str,
        seen: dict[str, int] | None = None,
        kinds: Sequence[EntryKind] = (),
        interval: float = 0,
    ) -> None:
        self.names = names
        self.cursors = CURSORS.for_accounts(names)
        self._subscribed = site.hub.subscribe(names)
        self.subscription: Subscription = self._subscribed.__enter__()
        feed = cast(Feed, SimpleNamespace(connect=no_connection, hub=site.hub))
        begin = dict(seen) if seen else dict.fromkeys(names, SNAPSHOT_OWED)
        stream = AccountStream(
            cast(Ledger, site), feed, self.cursors, begin, frozenset(kinds), interval, Beat(HOUR)
        )
        self.messages = stream.messages(self.subscription, resumed=seen is not None)
        self._coming: asyncio.Task[Message] | None = None
        self.seen: dict[str, int] = dict(seen or {})

    async def next(self) -> Message:
        coming, self._coming = self._coming, None
        async with asyncio.timeout(LONG):
            return self._noted(await (coming or anext(self.messages)))

    async def live(self) -> Self:
        """The same once it has told where it stands and what was there before."""
        while await self.next_if_any() is not None:
            pass
        return self

    async def next_if_any(self) -> Message | None:
        """The next message if there is one without anything else happening."""
        if self._coming is None:
            self._coming = asyncio.get_running_loop().create_task(self._take())
        for _ in range(20):
            await asyncio.sleep(0)
            if self._coming.done():
                message, self._coming = self._coming.result(), None
                return self._noted(message)
        return None

    async def _take(self) -> Message:
        return await anext(self.messages)

    def _noted(self, message: Message) -> Message:
        """Checks that a message is what comes next of its account, and that its cursor says just that."""
        body = message.body
        if isinstance(body, Entry):
            assert body.revision == self.seen[body.account_id] + 1
            self.seen[body.account_id] = body.revision
        elif isinstance(body, Summary):
            assert body.from_revision == self.seen[body.last.account_id] + 1
            assert body.changes == body.last.revision - body.from_revision + 1
            self.seen[body.last.account_id] = body.last.revision
        elif not isinstance(body, Signal):
            owed = [name for name in self.names if name not in self.seen]
            self.seen[owed[0]] = body.account.revision
        told = self.cursors.read(message.cursor)
        assert told == {name: self.seen.get(name, SNAPSHOT_OWED) for name in self.names}
        return message

    async def leave(self) -> None:
        if self._coming:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        await self.messages.aclose()  # type: ignore[attr-defined]
        self._subscribed.__exit__(None, None, None)


@contextmanager
def serving(*, page: int = 100, stall: float = LONG) -> Iterator[Site]:
    site = Site()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(accounts, "PAGE", page)
        patched.setattr(accounts, "STALL", stall)
        patched.setattr(accounts, "read_revisions", site.read_revisions)
        patched.setattr(accounts, "read_after", site.read_after)
        yield site


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that has no patience with readers: whoever is behind what memory holds is told a summary."""
    with serving(stall=-1) as site:
        site.commit_elsewhere("ann", 2)
        site.commit_elsewhere("bob", 2)
        yield site


@pytest.fixture
def patient_site() -> Iterator[Site]:
    with serving() as site:
        site.commit_elsewhere("ann", 2)
        yield site


def revisions(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """From where to where each message goes."""
    return [
        (body.from_revision, body.last.revision) if isinstance(body, Summary) else (body.revision, body.revision)
        for body in (cast(Entry | Summary, message.body) for message in messages)
    ]  # fmt: skip


# ── Slow readers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_that_stalled_while_more_happened_than_memory_holds_is_told_it_in_one_summary(
    site: Site,
) -> None:
    stream = await Stream(site, "ann").live()
    site.commit("ann", 3)
    first = await stream.next()
    site.commit("ann", 5 * HELD)
    messages = [first, *[await stream.next() for _ in range(3)]]
    site.commit("ann")
    messages.append(await stream.next())

    assert revisions(messages) == [(3, 3), (4, 4), (5, 5), (6, 55), (56, 56)]


async def test_a_reader_that_stalled_but_missed_nothing_in_memory_is_told_every_entry(site: Site) -> None:
    stream = await Stream(site, "ann").live()
    site.commit("ann", 3)
    await stream.next()
    site.commit("ann", HELD - 3)

    assert revisions([await stream.next() for _ in range(9)]) == [(number, number) for number in range(4, 13)]


async def test_a_reader_that_does_not_stall_is_told_every_entry_from_the_tables(patient_site: Site) -> None:
    stream = await Stream(patient_site, "ann").live()
    patient_site.commit("ann", 3)
    await stream.next()
    patient_site.commit("ann", 30 * HELD)

    told = revisions([await stream.next() for _ in range(30 * HELD + 2)])
    assert told == [(number, number) for number in range(4, 306)]


async def test_only_the_account_that_is_behind_is_summed(site: Site) -> None:
    stream = await Stream(site, "ann", "bob").live()
    site.commit("ann")
    await stream.next()
    site.commit("bob")
    site.commit("ann", 3 * HELD)

    messages = [await stream.next() for _ in range(2)]
    assert sorted(revisions(messages)) == [(3, 3), (4, 3 + 3 * HELD)]


async def test_a_summary_of_what_was_missed_counts_only_the_kinds_asked_for(site: Site) -> None:
    stream = await Stream(site, "ann", kinds=[EntryKind.GRANTED]).live()
    granted = entry("ann", 3, EntryKind.GRANTED)
    site.tables["ann"].append(granted)
    site.hub.committed([Account("ann", written=[granted])])
    await stream.next()
    site.commit("ann", 3 * HELD)
    site.tables["ann"].append(entry("ann", 4 + 3 * HELD, EntryKind.GRANTED))
    site.tail()
    summary = (await stream._take()).body

    assert isinstance(summary, Summary)
    assert (summary.from_revision, summary.last.revision) == (4, 4 + 3 * HELD)
    assert (summary.changes, summary.credits) == (1, 0)


async def test_a_stream_takes_a_page_at_a_time_however_far_it_is_behind() -> None:
    with serving(page=7) as site:
        site.commit_elsewhere("ann", 100)
        stream = Stream(site, "ann", seen={"ann": 0})
        for _ in range(8):
            await stream.next()
        assert site.reads == 2


async def test_a_busy_account_does_not_keep_its_neighbours_waiting() -> None:
    with serving(page=5) as site:
        site.commit_elsewhere("ann", 1)
        site.commit_elsewhere("bob", 1)
        stream = Stream(site, "ann", "bob", seen={"ann": 1, "bob": 1})
        assert (await stream.next()).body is Signal.CAUGHT_UP
        site.commit("ann", 8 * HELD)
        site.commit("bob")
        told = [cast(Entry, (await stream.next()).body).account_id for _ in range(7)]
        assert told.count("bob") == 1


async def test_a_stream_that_is_catching_up_ends_when_the_server_drains() -> None:
    with serving(page=5) as site:
        site.commit_elsewhere("ann", 100)
        stream = Stream(site, "ann", seen={"ann": 0})
        await stream.next()
        site.hub.drain()
        with pytest.raises(Refused) as caught:
            for _ in range(10):
                await stream.next()
        assert caught.value.reason is Reason.SHUTTING_DOWN


# ── Summaries as asked for ────────────────────────────────────────────────────────────────────────────────────────


async def test_with_an_interval_what_was_missed_is_one_summary_and_counts_as_one(patient_site: Site) -> None:
    patient_site.commit_elsewhere("ann", 300)
    stream = Stream(patient_site, "ann", seen={"ann": 1}, interval=HOUR)

    assert revisions([await stream.next()]) == [(2, 302)]
    assert (await stream.next()).body is Signal.CAUGHT_UP
    patient_site.commit("ann")
    assert await stream.next_if_any() is None


async def test_with_an_interval_the_first_change_is_told_at_once_and_the_others_after_it_together(
    patient_site: Site,
) -> None:
    stream = await Stream(patient_site, "ann", interval=0.1).live()
    patient_site.commit("ann")
    assert revisions([await stream.next()]) == [(3, 3)]
    patient_site.commit("ann", 2)
    assert await stream.next_if_any() is None
    patient_site.commit("ann", 3)

    assert revisions([await stream.next()]) == [(4, 8)]


# ── Against the tables ────────────────────────────────────────────────────────────────────────────────────────────

accounts_ = st.sampled_from(["ann", "bob"])
steps = st.one_of(
    st.tuples(st.just("here"), accounts_, st.integers(1, 6)),
    st.tuples(st.just("elsewhere"), accounts_, st.integers(1, 6)),
    st.tuples(st.just("tail"), st.none(), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 8)),
    st.tuples(st.just("anew"), st.integers(0, 3), st.just(0)),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=40), st.sampled_from([-1, LONG]), st.integers(1, 4))
def test_in_any_order_of_commits_and_reads_every_stream_is_told_everything_once_and_in_order(
    story: list[tuple[str, Any, int]], stall: float, page: int
) -> None:
    """``_noted`` checks each message. Nothing may be waited for in the end but the tailer, which looks by itself."""

    async def run(site: Site) -> None:
        for name in ("ann", "bob"):
            site.commit_elsewhere(name, 2)
        streams = [Stream(site, "ann", "bob"), Stream(site, "ann"), Stream(site, "bob"), Stream(site, "ann")]
        for what, which, count in story:
            if what == "here":
                site.commit(which, count)
            elif what == "elsewhere":
                site.commit_elsewhere(which, count)
            elif what == "tail":
                site.tail()
            elif what == "read":
                for _ in range(count):
                    await streams[which].next_if_any()
            else:
                old = streams[which]
                await old.leave()
                complete = len(old.seen) == len(old.names)
                streams[which] = Stream(site, *old.names, seen=old.seen if complete else None)
        site.tail()
        for stream in streams:
            while await stream.next_if_any() is not None:
                pass
            assert stream.seen == {name: len(site.tables[name]) for name in stream.names}
            await stream.leave()
        assert site.hub.is_idle()

    with serving(page=page, stall=stall) as site:
        asyncio.run(run(site))
