"""Writes what time has done to accounts that nobody touches, so that watchers see it soon after its instant.

An economy and nothing more: every answer is the same without it (docs/decisions/0009). One process does it for all;
should two do so for a moment, the second finds nothing to write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ..domain.book import CatalogBook
from ..domain.refusal import Refused
from ..storage.connect import Connection
from ..storage.due import leading, read_behind, read_clock, read_due
from ..storage.errors import StorageError
from .catalogs import CurrentCatalog

logger = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks; half of what contract §6 allows is left for the writing."""

PAGE = 200
"""How many accounts are settled at once, so that callers do not wait behind them for long."""

SCAN = 5_000
"""How many accounts are looked at in one statement when a period begins."""


class Sweeper:
    """Settles due accounts until cancelled, if no other process does; ``settle`` has it done by their lanes."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        current: CurrentCatalog,
        settle: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._current = current
        self._settle = settle
        self._begun: dict[str, int] = {}  # by level: the start of a period that all its accounts have seen

    async def run(self) -> None:
        """Sweeps for ever; errors are logged, and the next look tries again."""
        while True:
            try:
                async with await self._connect() as conn:
                    await self._sweep_on(conn)
            except (StorageError, Refused) as error:
                logger.warning("the sweeper starts again: %s", error)
            await asyncio.sleep(INTERVAL)

    async def _sweep_on(self, conn: Connection) -> None:
        while True:
            async with leading(conn) as leads:
                if leads:
                    await self._sweep_due(conn)
                    await self._sweep_allowances(conn)
                else:
                    self._begun.clear()  # another may leave its work half done
            await asyncio.sleep(INTERVAL)

    async def _sweep_due(self, conn: Connection) -> None:
        while due := await read_due(conn, PAGE):
            await self._settle(due)
            if len(due) < PAGE:
                return

    async def _sweep_allowances(self, conn: Connection) -> None:
        now, version = await read_clock(conn)
        book = await self._current.at(version, conn)
        for start, levels in _begun(book, now).items():
            new = [level for level in levels if self._begun.get(level) != start]
            if new:
                await self._begin(conn, new, start)
                self._begun |= dict.fromkeys(new, start)

    async def _begin(self, conn: Connection, levels: Sequence[str], start: int) -> None:
        after: str | None = ""
        while after is not None:
            after, behind = await read_behind(conn, after, levels, start, SCAN)
            for place in range(0, len(behind), PAGE):
                await self._settle(behind[place : place + PAGE])


def _begun(book: CatalogBook, now: int) -> dict[int, list[str]]:
    """The last start of an allowance, with the levels that it concerns."""
    starts: dict[int, list[str]] = {}
    for level in {level for each in book.versions for level in each.catalog.levels}:
        if start := book.last_start(level, now):
            starts.setdefault(start, []).append(level)
    return starts
