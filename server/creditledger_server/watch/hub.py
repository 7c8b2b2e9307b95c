"""Hands entries to the streams of this process, wherever they were written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..domain.account import Account
from ..domain.entry import Entry
from ..domain.refusal import Reason, Refused
from .pages import Pages
from .recent import Recent

RECENT = 5_000
"""How many entries are held for all streams together; some 10 MB."""


class Subscription:
    """What one stream waits on: which of its accounts have changed. ``account_ids`` None: all accounts.

    Says only where to look; what is there the stream finds by revisions. So it is bounded by the number of accounts.
    """

    def __init__(self, account_ids: Collection[str] | None) -> None:
        self.account_ids = account_ids
        self._changed: dict[str, None] = {}  # in the order of arrival
        self._wake = asyncio.Event()
        self._closed = False

    def notify(self, account_id: str) -> None:
        """Tells that an account has changed."""
        self._changed[account_id] = None
        self._wake.set()

    def close(self) -> None:
        """Ends the stream: ``check`` raises from now on."""
        self._closed = True
        self._wake.set()

    def check(self) -> None:
        """Raises Refused SHUTTING_DOWN once the server drains."""
        if self._closed:
            raise Refused(
                Reason.SHUTTING_DOWN, "the server is going away; resume elsewhere", retry_after=100_000
            )

    def take(self) -> str | None:
        """The account that has waited longest for a look, if any. Raises as ``check``."""
        self.check()
        for account_id in self._changed:
            del self._changed[account_id]
            return account_id
        return None

    async def wait(self, timeout: float) -> None:
        """Waits for a change, for at most so many seconds."""
        self._wake.clear()
        if self._changed or self._closed:
            return
        timer = asyncio.get_running_loop().call_later(timeout, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()


class Hub:
    """All subscriptions of this process.

    ``on_gap`` is told when entries arrived here before some that others wrote: the commit log should be looked at.
    """

    def __init__(self, pages: Pages, on_gap: Callable[[], None]) -> None:
        self.recent = Recent(RECENT)
        self._pages = pages
        self._on_gap = on_gap
        self._by_account: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self._first = asyncio.Event()
        self._draining = False

    @contextmanager
    def subscribe(self, account_ids: Iterable[str] | None) -> Iterator[Subscription]:
        """A subscription for as long as the block lasts. Subscribe first, then read: no change is missed between."""
        subscription = Subscription(None if account_ids is None else dict.fromkeys(account_ids))
        if self._draining:
            subscription.close()
        self._add(subscription)
        self._first.set()
        try:
            yield subscription
        finally:
            self._remove(subscription)

    def committed(self, accounts: Iterable[Account]) -> None:
        """Tells what this process has committed."""
        for account in accounts:
            if account.account_id in self._by_account:
                self._arrived(account.account_id, account.written)
        self.wake_watchers_of_all()

    def read(self, account_id: str, entries: Sequence[Entry]) -> None:
        """Tells an account's newest entries as the tables have them."""
        if account_id in self._by_account:
            self.recent.add(account_id, entries, after_gap=True)
            self._notify(account_id)

    def reached(self, account_id: str, revision: int) -> None:
        """Tells that a stream has found an account at this revision: nobody else tells the others what lies before."""
        if self.recent.reached(account_id, revision):
            self._notify(account_id)

    def wake_watchers_of_all(self) -> None:
        """Has the streams of all accounts look into the commit log."""
        self._pages.news()
        for subscription in self._of_all:
            subscription.notify("")

    def drain(self) -> None:
        """Ends every stream, now and from now on."""
        self._draining = True
        for subscription in self._of_all.union(*self._by_account.values()):
            subscription.close()

    def watched(self) -> list[str]:
        """The accounts that are watched by name."""
        return list(self._by_account)

    def is_watched(self, account_id: str) -> bool:
        """Whether some stream watches an account by name."""
        return account_id in self._by_account

    def count(self) -> int:
        """How many streams are open."""
        return len(self._of_all.union(*self._by_account.values()))

    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not (self._by_account or self._of_all)

    async def wait_for_streams(self) -> None:
        """Waits until a stream is open."""
        while self.is_idle():
            self._first.clear()
            await self._first.wait()

    def _arrived(self, account_id: str, entries: Sequence[Entry]) -> None:
        if self.recent.add(account_id, entries):
            self._notify(account_id)
        else:
            self._on_gap()

    def _notify(self, account_id: str) -> None:
        for subscription in self._by_account[account_id]:
            subscription.notify(account_id)

    def _add(self, subscription: Subscription) -> None:
        if subscription.account_ids is None:
            self._of_all.add(subscription)
        for account_id in subscription.account_ids or ():
            if account_id not in self._by_account:
                self._by_account[account_id] = set()
                self.recent.follow(account_id)
            self._by_account[account_id].add(subscription)

    def _remove(self, subscription: Subscription) -> None:
        self._of_all.discard(subscription)
        for account_id in subscription.account_ids or ():
            group = self._by_account[account_id]
            group.discard(subscription)
            if not group:
                del self._by_account[account_id]
                self.recent.forget(account_id)
