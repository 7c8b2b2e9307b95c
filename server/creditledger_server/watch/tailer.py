"""Finds what other processes have committed, in the commit log: woken by hints, or at the latest by its poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from ..storage.commits import Range, read_news, read_positions, read_revisions, read_touched
from ..storage.connect import Connection
from ..storage.errors import StorageError
from .hub import Hub

logger = logging.getLogger(__name__)

REST = 0.01
"""Seconds between two looks at least, however many hints come."""

SETTLE = 0.1
"""Seconds to the next look at most after one that found something: it may lie above the horizon still, and whatever
holds that back sends no hint when it ends."""

TRANSACTIONS = 500
"""How many transactions are looked at in one go. If there are more, all watched accounts are looked at instead."""

NEWS = 100
"""How many entries of one account are read for the streams; those that are further behind read for themselves."""

ACCOUNTS = 50
"""How many accounts' entries are read in one statement."""


class Tailer:
    """Tells a hub the entries of others, until cancelled."""

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[Connection]], poll_seconds: float
    ) -> None:
        self._connect = connect
        self._poll_seconds = poll_seconds
        self._hint = asyncio.Event()
        self._position: int | None = None  # up to which everything was looked at; None: nothing was
        self._found = False  # whether the last look found something

    def hint(self) -> None:
        """Says that a look is worth while now."""
        self._hint.set()

    async def run(self, hub: Hub) -> None:
        """Looks for as long as there are streams, for ever."""
        while True:
            if hub.is_idle():
                self._position = None
                await hub.wait_for_streams()
            self._hint.clear()
            try:
                await self._look(hub)
            except StorageError as error:
                logger.warning("cannot read the commit log: %s", error)
            await self._rest()

    async def _look(self, hub: Hub) -> None:
        async with self._connect() as conn:
            if self._position is None:
                # What was committed before the first look was told to nobody: look at everything once.
                horizon, changed = (await read_positions(conn)).horizon, None
            else:
                horizon, changed = await read_touched(conn, self._position, TRANSACTIONS)
            # Also where there is no telling what changed, and nobody watches anything by name.
            self._found = changed is None or bool(changed)
            if changed is None:
                revisions = await read_revisions(conn, hub.watched())
                changed = [Range(account_id, last, last) for account_id, last in revisions.items()]
            await self._tell(conn, hub, changed)
        self._position = horizon
        if self._found:
            hub.wake_watchers_of_all()

    async def _tell(self, conn: Connection, hub: Hub, changed: Iterable[Range]) -> None:
        wanted = [
            (each.account_id, after)
            for each in changed
            if hub.is_watched(each.account_id) and (after := _unknown_after(hub, each)) is not None
        ]
        for place in range(0, len(wanted), ACCOUNTS):
            news = await read_news(conn, wanted[place : place + ACCOUNTS], NEWS)
            for account_id, entries in news.items():
                hub.read(account_id, entries)

    async def _rest(self) -> None:
        await asyncio.sleep(REST)
        try:
            async with asyncio.timeout(
                min(self._poll_seconds, SETTLE) if self._found else self._poll_seconds
            ):
                await self._hint.wait()
        except TimeoutError:
            pass


def _unknown_after(hub: Hub, found: Range) -> int | None:
    """After which revision to read; None: the hub has it all already."""
    head = hub.recent.head(found.account_id)
    if head is None:
        return max(found.first - 1, found.last - NEWS)
    return max(head, found.last - NEWS) if found.last > head else None
