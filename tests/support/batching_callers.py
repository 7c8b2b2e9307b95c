"""Concurrent `deduct` calls of a client with batching: the same from threads and from tasks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from creditledger import AsyncCreditLedgerClient, CreditLedgerClient, DeductResponse

TIMEOUT = 30.0
"""Seconds; only ends a test that would hang."""
OPERATION = "chat_refinement"


class Callers(Protocol):
    """The calls of one client, each a future."""

    client: Any

    def __init__(self, target: str, batching: bool = True) -> None: ...

    def submit(self, account_id: str, operation: str = OPERATION, **options: Any) -> Future[DeductResponse]:
        """Begins a call."""

    def close(self) -> Future[None]:
        """Begins to close the client."""

    def end(self) -> None:
        """Closes the client and ends its threads."""


class Threads:
    """Calls from a thread each."""

    def __init__(self, target: str, batching: bool = True) -> None:
        self.client: Any = CreditLedgerClient(target, batching=batching, timeout=TIMEOUT)
        self._pool = ThreadPoolExecutor(max_workers=64)

    def submit(self, account_id: str, operation: str = OPERATION, **options: Any) -> Future[DeductResponse]:
        return self._pool.submit(self.client.deduct, account_id, operation, **options)

    def close(self) -> Future[None]:
        return self._pool.submit(self.client.close)

    def end(self) -> None:
        self.close().result(TIMEOUT)
        self._pool.shutdown()


class Tasks:
    """Calls from tasks of an event loop that runs in a thread of its own."""

    def __init__(self, target: str, batching: bool = True) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.client: Any = self._run(self._open(target, batching)).result(TIMEOUT)

    async def _open(self, target: str, batching: bool) -> AsyncCreditLedgerClient:
        return AsyncCreditLedgerClient(target, batching=batching, timeout=TIMEOUT)

    def _run(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def submit(self, account_id: str, operation: str = OPERATION, **options: Any) -> Future[DeductResponse]:
        return self._run(self.client.deduct(account_id, operation, **options))

    def close(self) -> Future[None]:
        return self._run(self.client.close())

    def end(self) -> None:
        self.close().result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()
