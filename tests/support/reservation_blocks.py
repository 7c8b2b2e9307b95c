"""Blocks of reserved work by either client, with the same work."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from creditledger import AsyncCreditLedgerClient, CreditLedgerClient

Work = Callable[[Any], Any]
"""What is done with the block: runs in a thread, and may return a call of the block, which is then made."""


class Blocks(Protocol):
    """Runs blocks on one server."""

    last: Any

    def run(self, work: Work, *, options: Mapping[str, Any] | None = None, **reserve: Any) -> Any:
        """Runs a block, which `last` keeps also if it raises; returns it."""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of the last block."""

    def close(self) -> None:
        """Closes what the blocks used."""


class SyncBlocks:
    """By CreditLedgerClient."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._clients: list[CreditLedgerClient] = []
        self.last: Any = None

    def run(self, work: Work, *, options: Mapping[str, Any] | None = None, **reserve: Any) -> Any:
        client = CreditLedgerClient(self._target, **(options or {}))
        self._clients.append(client)
        self.last = client.reserve(**{"account_id": "user-1", "operation": "video_processing", **reserve})
        with self.last as block:
            assert block is self.last
            work(block)
        return self.last

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.last, method)(*args, **kwargs)

    def close(self) -> None:
        for client in self._clients:
            client.close()


class AsyncBlocks:
    """By AsyncCreditLedgerClient."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._runner = asyncio.Runner()
        self._clients: list[AsyncCreditLedgerClient] = []
        self.last: Any = None

    def run(self, work: Work, *, options: Mapping[str, Any] | None = None, **reserve: Any) -> Any:
        return self._runner.run(self._run(work, options or {}, reserve))

    async def _run(self, work: Work, options: Mapping[str, Any], reserve: Mapping[str, Any]) -> Any:
        client = AsyncCreditLedgerClient(self._target, **options)
        self._clients.append(client)
        self.last = client.reserve(**{"account_id": "user-1", "operation": "video_processing", **reserve})
        async with self.last as block:
            assert block is self.last
            result = await asyncio.to_thread(work, block)
            if inspect.isawaitable(result):
                await result
        return self.last

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.last, method)(*args, **kwargs)

        return self._runner.run(call())

    def close(self) -> None:
        for client in self._clients:
            self._runner.run(client.close())
        self._runner.close()
