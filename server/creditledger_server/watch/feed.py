"""What brings entries to the streams of this process, from its own commits and those of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from ..domain.account import Account
from ..storage.connect import Connection
from .hints import Hints
from .hub import Hub
from .pages import Pages
from .retention import Retention
from .tailer import Tailer


class Feed:
    """The hub and what tells it; ``run`` works until cancelled.

    ``hints`` are sent to others, and received where there is a ``listen_url``; ``keep_hours`` is for the commit log.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        *,
        poll_seconds: float,
        hints: bool,
        listen_url: str | None,
        keep_hours: int,
    ) -> None:
        self.connect = connect
        self.pages = Pages(connect)
        self._tailer = Tailer(connect, poll_seconds)
        self._hints = Hints(connect, listen_url) if hints else None
        self._retention = Retention(connect, keep_hours)
        self.hub = Hub(self.pages, self._tailer.hint)

    def committed(self, accounts: Iterable[Account]) -> None:
        """Tells what this process has committed."""
        self.hub.committed(accounts)
        if self._hints:
            self._hints.committed()

    async def run(self) -> None:
        """Brings what others commit, tells others, and shortens the commit log."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tailer.run(self.hub))
            tasks.create_task(self._retention.run())
            if self._hints:
                tasks.create_task(self._hints.send())
                tasks.create_task(self._hints.receive(self._tailer.hint))
