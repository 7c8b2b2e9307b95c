"""Makes the streams of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ..ledger.ledger import Ledger
from .accounts import AccountStream
from .beat import Beat
from .cursor import SNAPSHOT_OWED, Cursors
from .everything import AllStream
from .feed import Feed
from .message import Message


class Watcher:
    """What WatchUsage streams are made of: the ledger, its tables and the hub that wakes them."""

    def __init__(self, ledger: Ledger, feed: Feed, heartbeat_seconds: float) -> None:
        self._ledger = ledger
        self._feed = feed
        self._cursors = Cursors(ledger.identity.cursor_key)
        self._heartbeat_seconds = heartbeat_seconds

    def watch(
        self, account_ids: Sequence[str], cursor: str, kinds: frozenset[int], interval: float
    ) -> AsyncIterator[Message]:
        """The messages that contract §6 promises.

        ``account_ids`` empty: all accounts, ``kinds`` empty: all kinds; ``interval`` in seconds, 0: every entry.
        """
        if account_ids:
            return self._watch_accounts(sorted(set(account_ids)), cursor, kinds, interval)
        return self._watch_all(cursor, kinds, interval)

    async def _watch_accounts(
        self, account_ids: list[str], cursor: str, kinds: frozenset[int], interval: float
    ) -> AsyncIterator[Message]:
        cursors = self._cursors.for_accounts(account_ids)
        seen = cursors.read(cursor) if cursor else dict.fromkeys(account_ids, SNAPSHOT_OWED)
        beat = Beat(self._heartbeat_seconds)
        with self._feed.hub.subscribe(account_ids) as subscription:
            stream = AccountStream(self._ledger, self._feed, cursors, seen, kinds, interval, beat)
            async for message in stream.messages(subscription, resumed=bool(cursor)):
                yield message

    async def _watch_all(self, cursor: str, kinds: frozenset[int], interval: float) -> AsyncIterator[Message]:
        beat = Beat(self._heartbeat_seconds)
        with self._feed.hub.subscribe(None) as subscription:
            stream = AllStream(self._feed, self._cursors, kinds, interval, beat)
            async for message in stream.messages(subscription, cursor):
                yield message
