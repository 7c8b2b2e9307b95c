"""Keeps the commit log short: what is older than some hours no watcher of all accounts resumes at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ..storage.commits import forget
from ..storage.connect import Connection
from ..storage.errors import StorageError

logger = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks."""

BETWEEN = 0.1
"""Seconds between two transactions while there is something to delete."""

ROWS = 5_000
"""How many rows are deleted in one transaction."""


class Retention:
    """Deletes rows of the commit log that are older than ``hours``, until cancelled.

    Every process does so, and finds nothing to do where another was first. Entries are never deleted.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Connection]], hours: int) -> None:
        self._connect = connect
        self._hours = hours

    async def run(self) -> None:
        """Deletes for ever; errors are logged, and the next look tries again."""
        while True:
            more = False
            try:
                async with self._connect() as conn:
                    more = await forget(conn, self._hours, ROWS)
            except StorageError as error:
                logger.warning("cannot shorten the commit log: %s", error)
            await asyncio.sleep(BETWEEN if more else INTERVAL)
