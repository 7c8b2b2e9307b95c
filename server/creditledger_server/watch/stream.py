"""The messages of one WatchUsage stream, read from the tables in the order of revisions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import NamedTuple

from ..domain.entry import Entry
from ..domain.refusal import Reason, Refused
from ..ledger.history import Standing
from ..ledger.ledger import Ledger
from ..storage.commits import read_after, read_committed, read_positions, read_revisions
from ..storage.connect import Connection
from .cursor import SNAPSHOT_OWED, AccountCursors, AllPosition, Cursors
from .hub import Hub

PAGE = 500
"""How many entries are read at once: bounds what a stream holds in memory."""

COMMITS = 16
"""How many commits are read at once by a watcher of all accounts."""


class Signal(Enum):
    """Messages without a content of their own."""

    CAUGHT_UP = "caught_up"
    HEARTBEAT = "heartbeat"


class Message(NamedTuple):
    """One message of a stream; ``cursor`` resumes after it."""

    cursor: str
    body: Standing | Entry | Signal


class Watcher:
    """Makes the streams of this process."""

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        hub: Hub,
        heartbeat_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._hub = hub
        self._cursors = Cursors(ledger.identity.cursor_key)
        self._heartbeat_seconds = heartbeat_seconds

    def watch(self, account_ids: Sequence[str], cursor: str, kinds: frozenset[int]) -> AsyncIterator[Message]:
        """The messages that contract §6 promises; ``account_ids`` empty: all accounts, ``kinds`` empty: all kinds."""
        if account_ids:
            return self._watch_accounts(sorted(set(account_ids)), cursor, kinds)
        return self._watch_all(cursor, kinds)

    async def _watch_accounts(
        self, account_ids: list[str], cursor: str, kinds: frozenset[int]
    ) -> AsyncIterator[Message]:
        with self._hub.subscribe(account_ids) as subscription:
            cursors = self._cursors.for_accounts(account_ids)
            seen = cursors.read(cursor) if cursor else dict.fromkeys(account_ids, SNAPSHOT_OWED)
            await self._check_revisions(seen)
            async for message in self._snapshots(seen, cursors):
                yield message
            async for message in self._news(seen, cursors, set(account_ids), kinds):
                yield message
            if cursor:
                yield Message(cursors.of(seen), Signal.CAUGHT_UP)
            beat = self._next_beat()
            while True:
                changed = await subscription.wait(_until(beat)) or set()
                async for message in self._news(seen, cursors, changed, kinds):
                    yield message
                if _until(beat) <= 0:
                    yield Message(cursors.of(seen), Signal.HEARTBEAT)
                    beat = self._next_beat()

    async def _watch_all(self, cursor: str, kinds: frozenset[int]) -> AsyncIterator[Message]:
        with self._hub.subscribe(None) as subscription:
            async with self._connect() as conn:
                positions = await read_positions(conn)
            seen = self._cursors.to_all(cursor) if cursor else AllPosition(positions.horizon)
            if seen.position > positions.next:
                raise _ahead()
            replaying = bool(cursor)
            if not replaying:
                # At once, so that a stream that breaks before its first entry can be resumed without a gap.
                yield Message(self._cursors.of_all(seen), Signal.HEARTBEAT)
            beat = self._next_beat()
            while True:
                async for position, entry in self._committed_after(seen):
                    seen = position
                    if entry is not None and (not kinds or entry.kind in kinds):
                        yield Message(self._cursors.of_all(seen), entry)
                # Once all that was committed before the stream began has been sent: below the horizon it is complete.
                if replaying and seen.position >= positions.next:
                    replaying = False
                    yield Message(self._cursors.of_all(seen), Signal.CAUGHT_UP)
                if _until(beat) <= 0:
                    yield Message(self._cursors.of_all(seen), Signal.HEARTBEAT)
                    beat = self._next_beat()
                await subscription.wait(_until(beat))

    async def _check_revisions(self, seen: dict[str, int]) -> None:
        async with self._connect() as conn:
            revisions = await read_revisions(conn, list(seen))
        for account_id, revision in seen.items():
            if account_id not in revisions:
                raise Refused(Reason.ACCOUNT_NOT_FOUND, f"no account {account_id!r}", accountId=account_id)
            if revision > revisions[account_id]:
                raise _ahead()

    async def _snapshots(self, seen: dict[str, int], cursors: AccountCursors) -> AsyncIterator[Message]:
        for account_id in [name for name, revision in seen.items() if revision == SNAPSHOT_OWED]:
            standing = await self._ledger.standing(account_id)
            seen[account_id] = standing.account.revision
            yield Message(cursors.of(seen), standing)

    async def _news(
        self, seen: dict[str, int], cursors: AccountCursors, changed: set[str], kinds: frozenset[int]
    ) -> AsyncIterator[Message]:
        """What the tables hold beyond ``seen``, which moves along. No connection is held while a message is sent."""
        for account_id in sorted(changed):
            full = True
            while full:
                async with self._connect() as conn:
                    entries = await read_after(conn, account_id, seen[account_id], PAGE)
                full = len(entries) == PAGE
                for entry in entries:
                    assert entry.revision == seen[account_id] + 1, "a gap in the history"
                    seen[account_id] = entry.revision
                    if not kinds or entry.kind in kinds:
                        yield Message(cursors.of(seen), entry)

    async def _committed_after(self, seen: AllPosition) -> AsyncIterator[tuple[AllPosition, Entry | None]]:
        """Entries beyond ``seen`` with their positions; at the end the horizon, below which there is nothing more."""
        while True:
            async with self._connect() as conn:
                reach = await read_committed(conn, seen.position, COMMITS)
            for item in reach.committed:
                position = AllPosition(item.position, item.entry.account_id, item.entry.revision)
                if position > seen:
                    seen = position
                    yield position, item.entry
            if reach.complete:
                yield max(seen, AllPosition(reach.horizon)), None
                return

    def _next_beat(self) -> float:
        # Jittered, so that thousands of streams do not beat together.
        return asyncio.get_running_loop().time() + self._heartbeat_seconds * random.uniform(0.9, 1.1)


def _until(beat: float) -> float:
    return max(0.0, beat - asyncio.get_running_loop().time())


def _ahead() -> Refused:
    return Refused(Reason.CURSOR_AHEAD, "the cursor is ahead of the ledger: history was lost")
