"""The stream of certain accounts: each a snapshot, then every entry in the order of its revisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from ..domain.entry import Entry, charged
from ..domain.refusal import Reason, Refused
from ..ledger.ledger import Ledger
from ..storage.commits import read_after, read_revisions
from .beat import Beat
from .cursor import SNAPSHOT_OWED, AccountCursors, ahead
from .feed import Feed
from .hub import Subscription
from .message import Change, Message, Signal, Summary
from .pace import Pace

PAGE = 100
"""How many entries a stream takes at once: bounds what it holds in memory while its reader does not read."""

STALL = 5.0
"""Seconds without progress after which a reader that is far behind is told what it missed in one summary."""


class AccountStream:
    """One stream. ``seen`` is how far each account was delivered; ``kinds`` empty: all; ``interval`` in seconds."""

    def __init__(
        self,
        ledger: Ledger,
        feed: Feed,
        cursors: AccountCursors,
        seen: dict[str, int],
        kinds: frozenset[int],
        interval: float,
        beat: Beat,
    ) -> None:
        self._ledger = ledger
        self._connect = feed.connect
        self._hub = feed.hub
        self._recent = feed.hub.recent
        self._cursors = cursors
        self._seen = seen
        self._kinds = kinds
        self._interval = interval
        self._beat = beat
        self._pace = Pace(interval)
        self._is_alone = len(seen) == 1
        self._clock = asyncio.get_running_loop().time
        self._lagging: set[str] = set()  # accounts of which the reader has missed what memory holds

    async def messages(self, subscription: Subscription, *, resumed: bool) -> AsyncIterator[Message]:
        """What the stream tells, for ever. ``subscription`` was made before anything was read."""
        await self._check_revisions()
        for account_id in [name for name, revision in self._seen.items() if revision == SNAPSHOT_OWED]:
            subscription.check()
            standing = await self._ledger.standing(account_id)
            self._seen[account_id] = standing.account.revision
            yield Message(self._cursor(), standing)
        for account_id in self._seen:
            if self._interval:
                if summary := await self._sum(account_id, from_tables=True):
                    self._pace.told(account_id, self._clock())
                    yield Message(self._cursor(), summary)
            else:
                while changes := await self._next(account_id, from_tables=True):
                    subscription.check()
                    for message in self._tell(account_id, changes):
                        yield message
        if resumed:
            yield Message(self._cursor(), Signal.CAUGHT_UP)
        async for message in self._live(subscription):
            yield message

    async def _live(self, subscription: Subscription) -> AsyncIterator[Message]:
        while True:
            account_id = self._pace.due(self._clock()) or subscription.take()
            if account_id is None:
                await subscription.wait(min(self._beat.left(), self._pace.left(self._clock())))
            elif self._interval or account_id in self._lagging:
                self._lagging.discard(account_id)
                if self._pace.admits(account_id, self._clock()) and (summary := await self._sum(account_id)):
                    self._pace.told(account_id, self._clock())
                    yield Message(self._cursor(), summary)
            elif changes := await self._next(account_id):
                subscription.notify(account_id)  # there may be more, but its neighbours have their turn first
                for message in self._tell(account_id, changes):
                    start = self._clock()
                    yield message
                    if self._clock() - start > STALL and self._is_behind(account_id):
                        self._lagging.add(account_id)
            if self._beat.is_due():
                yield Message(self._cursor(), Signal.HEARTBEAT)

    async def _check_revisions(self) -> None:
        async with self._connect() as conn:
            revisions = await read_revisions(conn, list(self._seen))
        for account_id, revision in self._seen.items():
            if account_id not in revisions:
                raise Refused(Reason.ACCOUNT_NOT_FOUND, f"no account {account_id!r}", accountId=account_id)
            if revision > revisions[account_id]:
                raise ahead()

    async def _next(self, account_id: str, *, from_tables: bool = False) -> Sequence[Change]:
        """The entries after what was seen. No connection is held while a message is sent."""
        seen = self._seen[account_id]
        changes = None if from_tables else self._recent.after(account_id, seen, PAGE)
        if changes is None:
            async with self._connect() as conn:
                changes = [Change(entry) for entry in await read_after(conn, account_id, seen, PAGE)]
            if len(changes) < PAGE:
                self._hub.reached(account_id, changes[-1].entry.revision if changes else seen)
        return changes

    def _is_behind(self, account_id: str) -> bool:
        """Whether what comes next is not even in memory any more."""
        return self._recent.after(account_id, self._seen[account_id], 1) is None

    def _tell(self, account_id: str, changes: Sequence[Change]) -> Iterator[Message]:
        for change in changes:
            entry = change.entry
            assert entry.revision == self._seen[account_id] + 1, "a gap in the history"
            self._seen[account_id] = entry.revision
            if self._tells_of(entry):
                yield self._message(change)

    async def _sum(self, account_id: str, *, from_tables: bool = False) -> Summary | None:
        """All that is new of an account in one; None if nothing of the watched kinds is."""
        summary = None
        first = self._seen[account_id] + 1
        while changes := await self._next(account_id, from_tables=from_tables):
            for change in changes:
                entry = change.entry
                self._seen[account_id] = entry.revision
                _, count, credits_, _ = summary or (first, 0, 0, entry)
                if self._tells_of(entry):
                    count, credits_ = count + 1, credits_ + charged(entry)
                summary = Summary(first, count, credits_, entry)
        return summary if summary and summary.changes else None

    def _tells_of(self, entry: Entry) -> bool:
        return not self._kinds or entry.kind in self._kinds

    def _message(self, change: Change) -> Message:
        if not self._is_alone:
            return Message(self._cursor(), change.entry)
        if change.alone is None:
            change.alone = Message(self._cursor(), change.entry)
        return change.alone

    def _cursor(self) -> str:
        return self._cursors.of(self._seen)
