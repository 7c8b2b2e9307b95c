"""Wakes streams when accounts have changed: at once for commits of this process, by polling for those of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from ..domain.account import Account
from ..domain.refusal import Reason, Refused
from ..storage.commits import read_positions, read_touched
from ..storage.connect import Connection
from ..storage.errors import StorageError

logger = logging.getLogger(__name__)


class Subscription:
    """What one stream waits on. ``account_ids`` None: all accounts.

    Only says where to look; what is there, and what was seen already, the stream knows from the tables. So it holds
    no entries and is bounded by the number of its accounts.
    """

    def __init__(self, account_ids: frozenset[str] | None) -> None:
        self.account_ids = account_ids
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._closed = False

    def notify(self, account_id: str) -> None:
        """Tells that an account has changed."""
        if self.account_ids is not None:
            self._changed.add(account_id)
        self._wake.set()

    def close(self) -> None:
        """Ends the stream: ``wait`` raises from now on."""
        self._closed = True
        self._wake.set()

    async def wait(self, timeout: float) -> set[str] | None:
        """Waits for a change; returns the accounts that have changed, or None after ``timeout`` seconds.

        Raises Refused SHUTTING_DOWN once the server drains.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return None
        if self._closed:
            raise Refused(
                Reason.SHUTTING_DOWN, "the server is going away; resume elsewhere", retry_after=100_000
            )
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed


class Hub:
    """All subscriptions of this process and the tailer that finds commits of other processes."""

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[Connection]], poll_seconds: float
    ) -> None:
        self._connect = connect
        self._poll_seconds = poll_seconds
        self._by_account: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self._first = asyncio.Event()
        self._draining = False

    @contextmanager
    def subscribe(self, account_ids: Iterable[str] | None) -> Iterator[Subscription]:
        """A subscription for as long as the block lasts. Subscribe first, then read: no change is missed between."""
        subscription = Subscription(None if account_ids is None else frozenset(account_ids))
        if self._draining:
            subscription.close()
        for group in self._groups(subscription):
            group.add(subscription)
        self._first.set()
        try:
            yield subscription
        finally:
            self._remove(subscription)

    def committed(self, accounts: Iterable[Account]) -> None:
        """Tells what this process has committed."""
        self._notify(account.account_id for account in accounts)

    def drain(self) -> None:
        """Ends every stream, now and from now on."""
        self._draining = True
        for subscription in self._all():
            subscription.close()

    def count(self) -> int:
        """How many streams are open."""
        return len(self._all())

    async def run(self) -> None:
        """Polls the commit log while there are subscriptions, until cancelled."""
        position: int | None = None
        while True:
            await self._first.wait()
            if not (self._by_account or self._of_all):
                self._first.clear()
                position = None
                continue
            try:
                position = await self._poll(position)
            except StorageError as error:
                logger.warning("cannot read the commit log: %s", error)
            await asyncio.sleep(self._poll_seconds)

    async def _poll(self, position: int | None) -> int:
        """Wakes whom commits from ``position`` on concern; returns the position to poll from next time."""
        async with self._connect() as conn:
            if position is None:
                horizon = (await read_positions(conn)).horizon
                # What was committed before the first poll was not told to anybody: let all streams look once.
                for subscription in self._all():
                    for account_id in subscription.account_ids or [""]:
                        subscription.notify(account_id)
                return horizon
            horizon, account_ids = await read_touched(conn, position)
        self._notify(account_ids)
        return horizon

    def _notify(self, account_ids: Iterable[str]) -> None:
        account_id = ""
        for account_id in account_ids:
            for subscription in self._by_account.get(account_id, ()):
                subscription.notify(account_id)
        if account_id:
            for subscription in self._of_all:
                subscription.notify(account_id)

    def _groups(self, subscription: Subscription) -> list[set[Subscription]]:
        if subscription.account_ids is None:
            return [self._of_all]
        return [self._by_account.setdefault(account_id, set()) for account_id in subscription.account_ids]

    def _remove(self, subscription: Subscription) -> None:
        for group in self._groups(subscription):
            group.discard(subscription)
        for account_id in subscription.account_ids or ():
            if not self._by_account.get(account_id, True):
                del self._by_account[account_id]

    def _all(self) -> set[Subscription]:
        return self._of_all.union(*self._by_account.values())
