"""The stream of all accounts: entries in the order of the commit log, which is complete below its horizon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from ..domain.entry import Entry, charged
from ..storage.commits import read_positions
from .beat import Beat
from .cursor import AllPosition, AllSeen, Cursors, ahead
from .feed import Feed
from .hub import Subscription
from .message import Message, Signal, Summary
from .pages import TAKEN, Item

REST = 0.02
"""Seconds between two looks at the commit log at least."""

SETTLE = 0.1
"""Seconds between two looks while transactions that were under way as the stream began hold it up."""

SUMMED = 20_000
"""How many accounts are summed at most: if more change, they are told before the interval is over."""

Sums = dict[str, Summary]


class AllStream:
    """One stream. ``kinds`` empty: all; ``interval`` in seconds, 0: every entry by itself."""

    def __init__(
        self,
        feed: Feed,
        cursors: Cursors,
        kinds: frozenset[int],
        interval: float,
        beat: Beat,
    ) -> None:
        self._connect = feed.connect
        self._pages = feed.pages
        self._cursors = cursors
        self._kinds = kinds
        self._interval = interval
        self._beat = beat
        self._generation = feed.pages.news()  # of what the stream was told of
        self._clock = asyncio.get_running_loop().time

    async def messages(self, subscription: Subscription, cursor: str) -> AsyncIterator[Message]:
        """What the stream tells, for ever. ``subscription`` was made before anything was read."""
        async with self._connect() as conn:
            positions = await read_positions(conn)
        seen = self._cursors.to_all(cursor) if cursor else AllSeen(AllPosition(positions.horizon))
        if max(seen.reached, seen.end).position > positions.next:
            raise ahead()
        if not cursor:
            # At once, so that a stream that breaks before its first entry can be resumed without a gap.
            yield self._message(seen, Signal.HEARTBEAT)
        # Once all that was committed before the stream began has been sent: below the horizon it is complete.
        live = AllPosition(positions.next) if cursor else None
        tell = self._summaries if self._interval else self._entries
        async for message in tell(subscription, seen, live):
            yield message

    async def _entries(
        self, subscription: Subscription, seen: AllSeen, live: AllPosition | None
    ) -> AsyncIterator[Message]:
        while True:
            subscription.check()
            start = seen.reached.position
            count, end, complete = await self._pages.extent(start, self._generation)
            for index in range(0, count, TAKEN):
                for item in await self._pages.items(start, index):
                    if not seen.has(item.place):
                        seen = seen.moved_to(item.place)
                        if self._tells_of(item.entry):
                            yield self._entry_message(seen, item)
            seen = seen.moved_to(max(seen.reached, end))
            if not complete:
                continue
            if live and seen.reached >= live:
                live = None
                yield self._message(seen, Signal.CAUGHT_UP)
            if self._beat.is_due():
                yield self._message(seen, Signal.HEARTBEAT)
            await self._wait(subscription, SETTLE if live else self._beat.left())

    async def _summaries(
        self, subscription: Subscription, seen: AllSeen, live: AllPosition | None
    ) -> AsyncIterator[Message]:
        sums: Sums = {}
        summed = seen  # read, and not told yet
        next_time = self._clock()
        while True:
            subscription.check()
            summed, complete = await self._add_page(sums, summed)
            # What an earlier stream was in the middle of is told first and whole: so the cursors between are exact.
            at_once = not summed.account_id and (len(sums) >= SUMMED or bool(seen.account_id))
            # Told in parts, the rest of what was missed, and that it has caught up, would wait for the interval.
            is_partial = live is not None and summed.reached < live
            if at_once or (complete and not is_partial and self._clock() >= next_time):
                for message in self._told(sums, seen, summed.reached):
                    next_time = self._clock() + self._interval
                    yield message
                sums.clear()
            if not sums:
                seen = summed
            if not complete:
                continue
            if live and seen.reached >= live:
                live = None
                yield self._message(seen, Signal.CAUGHT_UP)
            if self._beat.is_due():
                yield self._message(seen, Signal.HEARTBEAT)
            left = max(0.0, next_time - self._clock()) if sums else float("inf")
            await self._wait(subscription, SETTLE if live else min(self._beat.left(), left))

    async def _add_page(self, sums: Sums, summed: AllSeen) -> tuple[AllSeen, bool]:
        """Adds what follows; returns how far it has come, and whether there is no more for now.

        Goes no further than the summaries that an earlier stream was in the middle of: beyond, all accounts are even.
        """
        start = summed.reached.position
        last = summed.end if summed.account_id else None
        count, end, complete = await self._pages.extent(start, self._generation)
        for index in range(0, count, TAKEN):
            for item in await self._pages.items(start, index):
                if last and item.place > last:
                    return AllSeen(last), False
                if not summed.has(item.place):
                    self._add(sums, item.entry)
                    summed = summed.moved_to(item.place)
        return summed.moved_to(max(summed.reached, end)), complete

    def _add(self, sums: Sums, entry: Entry) -> None:
        first, count, credits_, _ = sums.get(entry.account_id) or (entry.revision, 0, 0, entry)
        if self._tells_of(entry):
            count, credits_ = count + 1, credits_ + charged(entry)
        sums[entry.account_id] = Summary(first, count, credits_, entry)

    def _told(self, sums: Sums, seen: AllSeen, end: AllPosition) -> Iterator[Message]:
        for account_id in sorted(sums):
            if sums[account_id].changes:
                yield self._message(AllSeen(seen.reached, end, account_id), sums[account_id])

    async def _wait(self, subscription: Subscription, timeout: float) -> None:
        await asyncio.sleep(REST)
        await subscription.wait(timeout)
        told = subscription.take() is not None
        self._generation = self._pages.generation if told else self._pages.news()

    def _tells_of(self, entry: Entry) -> bool:
        return not self._kinds or entry.kind in self._kinds

    def _entry_message(self, seen: AllSeen, item: Item) -> Message:
        if seen.account_id:
            return self._message(seen, item.entry)
        if item.shared is None:
            item.shared = self._message(seen, item.entry)
        return item.shared

    def _message(self, seen: AllSeen, body: Entry | Summary | Signal) -> Message:
        return Message(self._cursors.of_all(seen), body)
