"""A transaction whose server has stopped does not hold its locks for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from creditledger_server.storage.batch import Wanted, lock_and_load
from creditledger_server.storage.connect import Connection

_ALIVE = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)"


async def test_postgres_ends_transactions_that_were_left_open_after_their_load(
    connect: Callable[[], Awaitable[Connection]],
) -> None:
    """Several, because what the driver sends last depends on how fast Postgres answers."""
    watcher, *stopped = [await connect() for _ in range(9)]
    for number, conn in enumerate(stopped):
        await lock_and_load(conn, Wanted([f"account-{number}"], []))

    left = await _left(watcher, [conn.info.backend_pid for conn in stopped], seconds=20)

    assert left == []


async def _left(conn: Connection, pids: list[int], seconds: float) -> list[Any]:
    """Which backends are still there when all are gone, or the patience is."""
    end = time.monotonic() + seconds
    while True:
        cursor = await conn.execute(_ALIVE, [pids])
        left = list(await cursor.fetchall())
        if not left or time.monotonic() > end:
            return left
        await asyncio.sleep(0.1)
