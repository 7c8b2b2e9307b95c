"""Tells the other processes of the ledger that something was committed, by LISTEN and NOTIFY. Only hints.

Nothing depends on them but how soon others look: without them it is their poll. A notification takes a lock of the
whole database at its commit, so none is ever sent in a mutation's transaction, and never more than some per second.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ..storage.connect import Connection
from ..storage.errors import StorageError
from ..storage.hints import listen, notify

logger = logging.getLogger(__name__)

SPACING = 0.05
"""Seconds between two notifications at least."""

RECONNECT = 2.0
"""Seconds until a listener that has lost its connection tries again."""


class Hints:
    """Sends hints through ``connect`` and receives those of others at ``listen_url``, until cancelled.

    The latter has to lead to Postgres itself, for nobody listens through a pooler that hands out sessions per
    transaction; None: polling has to do.
    """

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[Connection]], listen_url: str | None
    ) -> None:
        self._connect = connect
        self._listen_url = listen_url
        self._sender = secrets.token_hex(8)  # to tell one's own from those of others
        self._committed = asyncio.Event()

    def committed(self) -> None:
        """Says that there is something to tell."""
        self._committed.set()

    async def send(self) -> None:
        """Sends a hint whenever something was committed, for ever."""
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                async with self._connect() as conn:
                    await notify(conn, self._sender)
            except StorageError as error:
                logger.warning("cannot notify other servers, which will poll: %s", error)
            await asyncio.sleep(SPACING)

    async def receive(self, on_hint: Callable[[], None]) -> None:
        """Tells of the hints of others, for ever."""
        while self._listen_url is not None:
            try:
                async for sender in listen(self._listen_url):
                    if sender != self._sender:
                        on_hint()
            except StorageError as error:
                logger.warning("cannot listen to other servers, and polls: %s", error)
            await asyncio.sleep(RECONNECT)
